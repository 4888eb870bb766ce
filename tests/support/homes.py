"""Where ledgers of each kind are, with a mirror or without: on a real server, in a real directory.

The fixtures are for whichever `conftest.py` imports them.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pytest

from shirako.ledger import CountedLedger, Entry, Ledger, Link, encode_entries, link_hash
from shirako.ledger.copying import reading
from shirako.ledger.memory import MemoryLedger
from shirako.ledger.mirror.ledger import MirroredLedger, mirrored
from shirako.ledger.mirror.place import MirrorPlace
from shirako.ledger.mirror.reading import Mirrored, read_mirror
from shirako.ledger.postgresql import PostgresLedger
from shirako.ledger.sqlite import SqliteLedger
from shirako.testbed.children import Children
from shirako.testbed.postgres import Postgres
from shirako.testbed.remains import Remains
from shirako.testbed.slapd import LEDGERS_DN, Slapd

DURABLE = (
    "sqlite",
    "sqlite+mirror",
    pytest.param("postgresql", marks=pytest.mark.real),
    pytest.param("postgresql+mirror", marks=pytest.mark.real),
)
KINDS = ("memory", "memory+mirror", *DURABLE)
"""Of ledgers, as `make_home` takes them."""
HOLD_SECONDS = 10.0
"""Longer than a busy machine may keep a process waiting."""
_actors = itertools.count(1)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


@pytest.fixture(scope="session")
def slapd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slapd]:
    folder = tmp_path_factory.mktemp("slapd")
    server = Slapd(folder, Children(Remains(folder / "remains")))
    server.start_empty()
    try:
        server.await_ready()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def place(slapd: Slapd) -> MirrorPlace:
    directory = slapd.directory
    return MirrorPlace(
        url=directory.url,
        base=LEDGERS_DN,
        user=directory.bind_dn,
        password_file=directory.password_file,
    )


class Home:
    """Where one actor has its ledger, and perhaps a mirror of it."""

    def __init__(
        self, where: str | Path, actor: str, place: MirrorPlace | None, stack: ExitStack
    ) -> None:
        """`where`: a path or URL, or "" for one in memory."""
        self.actor = actor
        self.where = where
        self.place = place
        self._stack = stack
        self._memory = MemoryLedger()

    def open(self) -> Ledger:
        """As an actor finds it when it is started."""
        ledger: Ledger = self._open()
        self._stack.callback(ledger.close)  # for some tests the second time
        return ledger

    def _open(self) -> Ledger:
        ledger: CountedLedger
        if isinstance(self.where, Path):
            ledger = SqliteLedger(self.where)
        elif self.where:
            ledger = PostgresLedger(self.where, self.actor, hold_seconds=HOLD_SECONDS)
        else:
            ledger = self._memory
        if self.place is None:
            return ledger
        copy = partial(reading, self.where, self.actor) if self.where else self._memory.snapshot
        return mirrored(ledger, copy, self.place, self.actor)

    def mirror(self) -> Mirrored:
        """What the directory says; raises `LedgerError` when that is no ledger."""
        assert self.place is not None
        return read_mirror(self.place, self.actor)

    def mirrored_records(self) -> dict[tuple[str, str], bytes]:
        return {(kind, key): body for kind, key, body in self.mirror().records}

    @property
    def words(self) -> str:
        """All of it for another process, which reads it with `home_of`."""
        where = {"path": str(self.where)} if isinstance(self.where, Path) else {"url": self.where}
        place = None if self.place is None else asdict(self.place)
        return json.dumps(where | {"actor": self.actor, "place": place}, default=str)


def home_of(words: str, stack: ExitStack) -> Home:
    """That of `Home.words`."""
    said = json.loads(words)
    place = said["place"] and MirrorPlace(
        **(said["place"] | {"password_file": Path(said["place"]["password_file"])})
    )
    return Home(Path(said["path"]) if "path" in said else said["url"], said["actor"], place, stack)


MakeHome = Callable[[str], Home]


@pytest.fixture
def make_home(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeHome]:
    """Makes, for one of `KINDS`, where a new actor has its ledger."""
    with ExitStack() as stack:

        def make(kind: str) -> Home:
            actor = f"actor-{next(_actors)}"
            base, _, mirror = kind.partition("+")
            where: str | Path = ""
            if base == "sqlite":
                where = tmp_path / actor / "site.sqlite"
            elif base == "postgresql":
                where = request.getfixturevalue("postgres").socket_url
            place = request.getfixturevalue("place") if mirror else None
            return Home(where, actor, place, stack)

        yield make


# What is in them ------------------------------------------------------------------------------


def entry(lease: str, what: str, tick: int = 1) -> Entry:
    return Entry(lease=lease, tick=tick, what=what, state="Active", by="guest", note="ünïcode\t")


def records(ledger: Ledger) -> dict[tuple[str, str], bytes]:
    return {(kind, key): body for kind, key, body in ledger.load()}


def chain(*bodies: list[Entry]) -> list[Link]:
    links: list[Link] = []
    for number, entries in enumerate(bodies, 1):
        body = encode_entries(entries)
        previous = links[-1].hash if links else ""
        links.append(Link(number, body, link_hash(previous, body)))
    return links


def await_mirror(ledger: Ledger, seconds: float = 60.0) -> None:
    """Return when the mirror of `ledger` has caught up."""
    assert isinstance(ledger, MirroredLedger)
    deadline = time.monotonic() + seconds
    while ledger.lag()[:2] != (0, 0.0):
        assert time.monotonic() < deadline, ledger.lag()
        time.sleep(0.01)
