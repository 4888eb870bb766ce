"""What the actor sees of a ledger in PostgreSQL."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator, Sequence
from typing import Any, LiteralString

import psycopg

from shirako.ledger import (
    CommitFailed,
    Entry,
    LedgerError,
    LedgerLost,
    Link,
    Total,
    Write,
    decode_entries,
    encode_entries,
    link_hash,
)
from shirako.ledger.postgresql import schema
from shirako.ledger.postgresql.schema import Stored
from shirako.ledger.postgresql.session import Session, Target, ended, told
from shirako.ledger.postgresql.takeover import open_as_holder
from shirako.ledger.postgresql.tenure import BEATS, HOLD_SECONDS, steady
from shirako.ledger.sums import record_sum, story_key

PAGE_ROWS = 1000
"""Rows that are fetched at a time: more would be kept in memory for little."""
TRIES = 3
"""How often a statement is tried whose session ends under it, before it is to blame."""
FIRST_PAUSE_SECONDS = 0.02
PAUSE_SECONDS_MAX = 1.0
"""Between attempts to connect again."""

log = logging.getLogger(__name__)


class PostgresLedger:
    """The ledger of `actor` in the database at `url` (postgresql://user@host:port/database).

    Raises `LedgerError` when it can not be used. With `standby` it waits, for as long as another
    process holds it. `stopping` may be set in any thread; it ends this wait with `LedgerError`,
    and later every wait for the server with `LedgerLost`.

    Used by one thread at a time; `held` may be called by any.
    """

    def __init__(
        self,
        url: str,
        actor: str,
        *,
        standby: bool = False,
        stopping: threading.Event | None = None,
        hold_seconds: float = HOLD_SECONDS,
    ) -> None:
        self._target = Target(url, actor)
        self._hold_seconds = hold_seconds
        self._stopping = stopping or threading.Event()
        self._using = threading.RLock()
        """Whoever talks to the server: the actor's thread, or the one that asks in between."""
        self._session: Session | None
        self._session, self._tenure, self._stored = open_as_holder(
            self._target, hold_seconds, standby=standby, stopping=self._stopping
        )
        self._under_way: Stored | None = None
        """What will be stored if the commit succeeds whose answer we wait for."""
        self._counted: tuple[int, int] | None = None
        """The records and their sums, where the last commit was answered."""
        self._trouble = ""
        """Why we could not connect again, as it was last logged."""
        self._closed = threading.Event()
        self._asking = threading.Thread(
            target=self._keep_asking, name=f"{actor} holds its ledger", daemon=True
        )
        self._asking.start()

    # What every ledger does -------------------------------------------------------------------

    def load(self) -> Iterator[tuple[str, str, bytes]]:
        """Every record. It ends when no predecessor can act any more.

        Raises `LedgerLost` when another copy has taken over.
        """
        rows = self._read(schema.FIRST_RECORDS, (PAGE_ROWS,))
        while rows:
            for kind, raw_key, stored, body in rows:
                key = raw_key.decode()
                if record_sum(kind, key, body) != stored:
                    raise LedgerError(
                        f"{self._target} is damaged: the record {kind} {key} does not fit its "
                        "checksum: restore a backup"
                    )
                yield kind, key, body
            rows = self._read(schema.NEXT_RECORDS, (*rows[-1][:2], PAGE_ROWS))
        with self._using:
            self._await_turn()
            self._confirm()

    def commit(self, writes: Sequence[Write], entries: Sequence[Entry]) -> None:
        """Store all of it or nothing.

        Raises `CommitFailed` when nothing of it is stored, `LedgerLost` when this copy has to end.
        """
        with self._using:
            self._await_turn()
            after, parameters = self._prepare(writes, entries)
            self._under_way = after
            try:
                for _ in range(TRIES):
                    self._counted = self._commit_once(parameters)
                    if self._counted or self._is_stored(after):
                        self._stored = after
                        return
            finally:
                self._under_way = None
            raise CommitFailed(f"{self._target}: the server ends each session that commits this")

    def story(self, lease: str) -> list[Entry]:
        rows = self._read(schema.STORY, (story_key(lease),))
        return [e for (body,) in rows for e in decode_entries(body) if e.lease == lease]

    def links(self) -> Iterator[Link]:
        number = 0
        while rows := self._read(schema.NEXT_LINKS, (number, PAGE_ROWS)):
            for row in rows:
                yield Link(*row)
            number = rows[-1][0]

    def last_link(self) -> Link | None:
        rows = self._read(schema.LAST_LINK, ())
        return Link(*rows[0]) if rows else None

    def total(self) -> Total:
        with self._using:
            records, sums = self._counted or self._read(schema.COUNTED, ())[0]
            commits, links, head = self._stored
        return Total(commits, records, int(sums), links, head)

    def close(self) -> None:
        """End, and say so: whoever comes next need not wait."""
        self._closed.set()
        if self._asking is not threading.current_thread():
            self._asking.join()
        with self._using:
            self._tenure.lose(f"{self._target} is closed")
            if self._session is not None:
                with contextlib.suppress(psycopg.Error):
                    self._session.db.execute(schema.RELEASE, (self._tenure.generation,))
                    self._session.unlock()
                self._drop_session()

    # What only a ledger does that may have to end ----------------------------------------------

    def held(self) -> bool:
        """Whether this copy is the one that acts and answers, as far as it can know right now.

        False: not at this moment, so do and say nothing; the server is being asked. Never waits.
        Raises `LedgerLost` when it never will be again.
        """
        return self._tenure.held(steady())

    # Commits -----------------------------------------------------------------------------------

    def _prepare(
        self, writes: Sequence[Write], entries: Sequence[Entry]
    ) -> tuple[Stored, dict[str, Any]]:
        """What will be stored, and the parameters of the statement that stores it."""
        bodies = {(kind, key): body for kind, key, body in writes}  # the last of a commit counts
        sums = [
            0 if body is None else record_sum(kind, key, body)
            for (kind, key), body in bodies.items()
        ]
        commits, links, head = self._stored
        link = encode_entries(list(entries)) if entries else None
        if link is not None:
            links, head = links + 1, link_hash(head, link)
        parameters = {
            "generation": self._tenure.generation,
            "commits": commits,
            "kinds": [kind for kind, _ in bodies],
            "keys": [key.encode() for _, key in bodies],
            "sums": sums,
            "bodies": list(bodies.values()),
            "puts": sum(body is not None for body in bodies.values()),
            "put_sums": sum(sums),
            "links": links,
            "head": head,
            "link": link,
            "leases": list({story_key(entry.lease) for entry in entries}),
        }
        return Stored(commits + 1, links, head), parameters

    def _commit_once(self, parameters: dict[str, Any]) -> tuple[int, int] | None:
        """The records and their sums when it is certainly stored; None: that is not known.

        Raises `CommitFailed` when it certainly is not.
        """
        session = self._connected()
        asked = steady()
        try:
            row = session.db.execute(schema.COMMIT, parameters, prepare=True).fetchone()
            if row is None:
                self._check(session)
        except psycopg.Error as error:
            if not ended(session.db, error):
                raise CommitFailed(f"{self._target}: {told(error)}") from error
            self._drop_session(error)
            return None
        if row is None:
            raise self._tenure.lose(f"{self._target} was changed by another process")
        self._tenure.confirm(asked)
        if steady() - asked > self._hold_seconds / BEATS:
            self._ask()  # a slow disk: what we know is old, and the actor is about to act
        return row[0], int(row[1])

    def _is_stored(self, after: Stored) -> bool:
        """Whether the commit whose session ended under it is stored."""
        self._connected()
        return self._stored == after

    # Reading -----------------------------------------------------------------------------------

    def _read(self, query: LiteralString, parameters: tuple[Any, ...]) -> list[Any]:
        with self._using:
            for _ in range(TRIES):
                session = self._connected()
                try:
                    rows = session.db.execute(query, parameters, prepare=True, binary=True)
                    return rows.fetchall()
                except psycopg.Error as error:
                    if not ended(session.db, error):
                        raise LedgerError(f"{self._target}: {told(error)}") from error
                    self._drop_session(error)
            raise LedgerError(f"{self._target}: the server ends each session that reads this")

    # Holding -----------------------------------------------------------------------------------

    def _keep_asking(self) -> None:
        """Ask whether we still hold the ledger, unless who uses it asks anyway."""
        while not self._closed.wait(self._hold_seconds / BEATS):
            if self._using.acquire(blocking=False):
                try:
                    self._ask()
                except LedgerLost as lost:
                    log.critical("%s", lost)
                    return
                except Exception:
                    # whatever it was: who asks no more is no holder for long
                    log.exception("%s: could not ask", self._target)
                finally:
                    self._using.release()

    def _confirm(self) -> None:
        """Return when the server has confirmed our generation."""
        while not self._ask():
            self._connected()

    def _ask(self) -> bool:
        """Ask once, connecting again first if need be; whether our generation is confirmed."""
        session = self._session or self._reconnect()
        if session is None:
            return False
        asked = steady()
        try:
            self._check(session)
        except psycopg.Error as error:
            self._drop_session(error)
            return False
        self._tenure.confirm(asked)
        return True

    def _check(self, session: Session) -> None:
        """Raises `LedgerLost` when another generation has begun."""
        generation = self._tenure.generation
        row = session.db.execute(schema.CONFIRM, (generation,), prepare=True).fetchone()
        if row is None:
            raise self._taken_over()

    def _taken_over(self) -> LedgerLost:
        return self._tenure.lose(
            f"{self._target}: another process has taken over; this one has to end"
        )

    def _await_turn(self) -> None:
        """Return when no predecessor can act any more, and the fence says so."""
        while self._tenure.waiting:
            session = self._connected()
            left = self._tenure.acts_from - steady()
            if left > 0:
                self._ask()
                self._pause(min(left, self._hold_seconds / BEATS))
                continue
            hold_ms = round(self._hold_seconds * 1000)
            asked = steady()
            try:
                row = session.db.execute(
                    schema.BEGIN_ACTING, (hold_ms, self._tenure.generation)
                ).fetchone()
            except psycopg.Error as error:
                self._drop_session(error)
                self._pause(FIRST_PAUSE_SECONDS)  # a full disk, say: it will refuse again
                continue
            if row is None:
                raise self._taken_over()
            self._tenure.confirm(asked)
            self._tenure.begin()

    # Connections -------------------------------------------------------------------------------

    def _connected(self) -> Session:
        """A session that has the lock, of our generation; waits until there is one."""
        self._tenure.check()
        pause = FIRST_PAUSE_SECONDS
        while True:
            session = self._session or self._reconnect()
            if session is not None:
                return session
            self._pause(pause)
            pause = min(pause * 2, PAUSE_SECONDS_MAX)

    def _reconnect(self) -> Session | None:
        """Try to connect and to go on where we were; None when it does not work yet.

        Raises `LedgerLost` when others have gone on instead. Once we have the lock, all that we
        sent in the earlier session is either stored or never will be.
        """
        self._tenure.check()
        try:
            session = self._target.connect(self._hold_seconds)
        except LedgerError as error:
            self._tell_trouble(str(error))
            return None
        try:
            locked = session.lock()
            state = session.state()
        except psycopg.Error as error:
            self._tell_trouble(f"{self._target}: {told(error)}")
            session.close()
            return None
        except LedgerError as error:
            session.close()
            raise self._tenure.lose(f"{self._target}: {error}") from error
        if state is None or state[0].generation != self._tenure.generation:
            session.close()
            raise self._taken_over()
        if not locked:  # by our earlier session, or by one who will soon have taken over
            session.close()
            return None
        stored = state[1]
        if stored not in (self._stored, self._under_way):
            session.close()
            raise self._tenure.lose(
                f"{self._target} ends with commit {stored.commits}, but {self._stored.commits} "
                "was acknowledged: was the server's data replaced by an older copy?"
            )
        self._stored = stored
        self._session = session
        self._tell_trouble("")
        log.warning("%s: connected again", self._target)
        return session

    def _tell_trouble(self, why: str) -> None:
        """Log why we can not connect, once for each reason, not for each attempt."""
        if why and why != self._trouble:
            log.warning("%s; trying again", why)
        self._trouble = why

    def _drop_session(self, error: psycopg.Error | None = None) -> None:
        if self._session is not None:
            if error is not None:
                log.warning("%s: the session has ended: %s", self._target, told(error))
            self._session.close()
            self._session = None

    def _pause(self, seconds: float) -> None:
        if self._stopping.wait(seconds):
            raise self._tenure.lose(f"{self._target}: stopped while it waited for its server")
