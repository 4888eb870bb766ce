"""The thread that brings a mirror up to its ledger, and what waits for it.

Whoever commits hands over what was committed, and never waits. Changes gather here until the
thread takes them; of a record that changed often the last is kept. When more gathers than
`GATHERED_BYTES`, because the directory is away or slow, all of it is forgotten: then, as after a
restart that finds the mirror behind, everything is compared. So is it from time to time for no
reason but that somebody may have changed entries by hand.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from shirako.ledger import Entry, Lag, LedgerError, LedgerLost, Total, Write
from shirako.ledger.mirror.directory import (
    Directory,
    HeadChanged,
    MirrorUnreachable,
)
from shirako.ledger.mirror.entries import Change, Head, Names, change, head_of
from shirako.ledger.mirror.place import MirrorPlace
from shirako.ledger.mirror.writing import Copying, Writing

GATHERED_BYTES = 16_000_000
"""Of changes that wait."""
GATHER_SECONDS = 0.1
"""What is committed within this is written together: many changes of a record cost as one."""
REST_SECONDS_MAX = 1.0
"""After something was written, however long it took."""
IDLE_SECONDS = 5.0
"""A connection that was not used for so long is not used again: servers end those."""
FIRST_PAUSE_SECONDS = 0.2
PAUSE_SECONDS_MAX = 30.0
"""Between attempts to reach the directory."""
COMPARE_SECONDS = 24 * 3600.0
DOUBT_SECONDS = 60.0
"""All is compared so long after a request was not answered: the directory may still do it, and
later than what was asked of it over the next connection."""
CLOSE_SECONDS = 3.0
"""How long a ledger that is closed waits for its mirror, where the directory answers."""

log = logging.getLogger(__name__)


class _Ended(Exception):
    """The ledger is closed, or another copy of the actor has it."""


class _Batch(NamedTuple):
    """What leads the mirror to `after`, from a state since which nothing else was committed."""

    after: Head
    changes: tuple[Change, ...] | None
    """None: they are not known."""


class _Gathering:
    """What was committed and not taken yet. Used by both threads; never waits for long."""

    def __init__(self, now: Head) -> None:
        self.now = now
        """The ledger after its last commit."""
        self._lock = threading.Lock()
        self._changes: dict[str, Change] | None = {}
        """By entry; None when they were too many."""
        self._size = 0
        self.some = threading.Event()
        """Whether there is something to take."""

    def add(self, now: Head, writes: Sequence[Write]) -> None:
        with self._lock:
            self.now = now
            if self._changes is not None:
                for one in (change(*write) for write in writes):
                    old = self._changes.pop(one.cn, None)
                    self._changes[one.cn] = one
                    self._size += one.size - (old.size if old else 0)
                if self._size > GATHERED_BYTES:
                    self._changes = None
            self.some.set()

    def take(self) -> _Batch:
        with self._lock:
            changes = self._changes
            self._changes, self._size = {}, 0
            self.some.clear()
            return _Batch(self.now, None if changes is None else tuple(changes.values()))


class Follower:
    """Mirrors the ledger of `actor`, which is `begins` now, at `place`, until `close`.

    `copy` reads it as it is at some later moment. `holds` says whether this copy of the actor may
    act now; it raises `LedgerLost` when it never may again.
    """

    def __init__(
        self,
        begins: Head,
        copy: Copying,
        place: MirrorPlace,
        actor: str,
        holds: Callable[[], bool],
    ) -> None:
        self._copy = copy
        self._place = place
        self._names = Names(place.base, actor)
        self._holds = holds
        self._gathering = _Gathering(begins)
        self._known = begins
        """The state from which what gathers leads on."""
        self._batch: _Batch | None = None
        """What was taken, and may not be in the mirror yet."""
        self._mirrored: Head | None = None
        """The head as it was last seen or written; None before that."""
        self._behind_since: float | None = None
        self._trouble = ""
        self._compared = _steady()
        self._writing = False
        """Whether a request was made since all were last answered."""
        self._closing = threading.Event()
        self._cut = False
        """Whether not even what was begun is to be finished."""
        self._directory: Directory | None = None
        self._thread = threading.Thread(target=self._run, name=f"{actor} mirror", daemon=True)
        self._thread.start()

    # For the actor ----------------------------------------------------------------------------

    def committed(self, total: Total, writes: Sequence[Write], entries: Sequence[Entry]) -> None:
        """The ledger has done this, durably, and is `total` now."""
        tick = max((entry.tick for entry in entries), default=self._gathering.now.tick)
        if self._behind_since is None:
            self._behind_since = _steady()
        self._gathering.add(head_of(total, tick), writes)

    def lag(self) -> Lag:
        """From any thread."""
        mirrored, now, since = self._mirrored, self._gathering.now, self._behind_since
        if mirrored is None:
            return Lag(None, 0.0, self._trouble)
        if mirrored.total == now.total:
            return Lag(0, 0.0, self._trouble)
        behind = now.commits - mirrored.commits
        seconds = 0.0 if since is None else _steady() - since
        return Lag(behind if behind > 0 else None, seconds, self._trouble)

    def close(self) -> None:
        """End, with what was committed in the mirror if that goes quickly."""
        self._closing.set()
        self._gathering.some.set()
        self._thread.join(CLOSE_SECONDS)
        self._cut = True
        if self._directory is not None:
            self._directory.cut()
        self._thread.join(CLOSE_SECONDS)

    # The thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                with Directory(self._place) as directory:
                    self._directory = directory
                    self._follow(Writing(directory, self._names, self._proceed))
                self._directory = None
                pause = FIRST_PAUSE_SECONDS
                self._await_more(self._compared + COMPARE_SECONDS - _steady())
                continue
            except _Ended:
                return
            except (MirrorUnreachable, HeadChanged, LedgerError) as error:
                self._tell_trouble(str(error))
                if self._writing:
                    soon = _steady() + DOUBT_SECONDS - COMPARE_SECONDS
                    self._compared = min(self._compared, soon)
            except Exception as error:
                # whatever it was: the ledger is sound, and the mirror will be compared
                log.exception("%s mirror: a step broke", self._names.head)
                self._compared = float("-inf")
                self._tell_trouble(f"{type(error).__name__}: {error}")
            if self._closing.wait(pause):
                return
            pause = min(pause * 2, PAUSE_SECONDS_MAX)

    def _follow(self, writing: Writing) -> None:
        """Until nothing has happened for a while, or the ledger is closed."""
        head = self._mirrored = writing.open()
        known = {self._known.total, self._batch.after.total if self._batch else None}
        compare = head.total not in known
        while True:
            begun = _steady()
            batch = self._batch = self._batch or self._gathering.take()
            if compare or batch.changes is None or self._compare_is_due():
                head = writing.catch_up(head, self._copy)
                self._compared, compare = begun, False
            elif head.total != batch.after.total:
                writing.move(head, batch.after, batch.changes)
                head = batch.after
            self._written(head)
            # to rest as long as it worked leaves the processor to the actor, and costs less: what
            # is gathered meanwhile is written together
            self._closing.wait(min(_steady() - begun, REST_SECONDS_MAX))
            if not self._await_more(IDLE_SECONDS):
                return

    def _written(self, head: Head) -> None:
        """The mirror has come so far, and all that gathers leads on from there."""
        self._known = self._mirrored = head
        self._batch = None
        self._writing = False
        self._tell_trouble("")
        self._behind_since = None if head.total == self._gathering.now.total else _steady()

    def _await_more(self, seconds: float) -> bool:
        """Whether there is more to write; waits for it. Raises `_Ended` when there will be none."""
        more = self._closing.is_set() or self._gathering.some.wait(max(seconds, 0.0))
        if more:
            self._closing.wait(GATHER_SECONDS)
        if self._closing.is_set() and self._known.total == self._gathering.now.total:
            raise _Ended
        return more

    def _compare_is_due(self) -> bool:
        return _steady() - self._compared >= COMPARE_SECONDS

    def _proceed(self) -> None:
        """Go on only while it is ours to write: raises what ends it, or puts it off."""
        if self._cut:
            raise _Ended
        try:
            if not self._holds():
                raise MirrorUnreachable("this copy of the actor may not be the one that acts")
        except LedgerLost as lost:
            raise _Ended from lost
        self._writing = True

    def _tell_trouble(self, why: str) -> None:
        """Log what is wrong once for each reason, not for each attempt."""
        if why and why != self._trouble:
            log.warning("%s mirror: %s; trying again", self._names.head, why)
        elif self._trouble and not why:
            log.warning("%s mirror: written again", self._names.head)
        self._trouble = why


def _steady() -> float:
    """Seconds by a clock that is never set, and that counts while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
