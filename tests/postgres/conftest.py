"""A real server, copies of an actor in processes of their own, and a bad network between them."""

from __future__ import annotations

import itertools
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

import pytest

from shirako.ledger.postgresql import PostgresLedger
from shirako.testbed.postgres import Postgres

HOLD_SECONDS = 10.0
"""Longer than a busy machine may keep a process waiting; a test that waits for it takes less."""

Open = Callable[..., PostgresLedger]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


@pytest.fixture
def url(postgres: Postgres) -> str:
    return postgres.socket_url


_numbers = itertools.count(1)


@pytest.fixture
def actor() -> str:
    """A name that no other test has, and so a schema that is new."""
    return f"actor-{next(_numbers)}"


@pytest.fixture
def schema(actor: str) -> str:
    return "shirako_" + actor.replace("-", "_")


@pytest.fixture
def query(postgres: Postgres, schema: str) -> Callable[[str], str]:
    """What the superuser is answered, in the schema of this test's actor."""

    def run(statement: str) -> str:
        return postgres.run(f"SET search_path = {schema}; {statement}", "shirako")

    return run


@pytest.fixture
def open_ledger(url: str, actor: str) -> Iterator[Open]:
    """Opens the ledger of this test's actor; all are closed at the end."""
    with ExitStack() as stack:

        def open_(url: str = url, **options: Any) -> PostgresLedger:
            ledger = PostgresLedger(url, actor, **{"hold_seconds": HOLD_SECONDS, **options})
            stack.callback(ledger.close)
            return ledger

        yield open_


@pytest.fixture
def ledger(open_ledger: Open) -> PostgresLedger:
    return open_ledger()


class Copy:
    """One copy of an actor: a process that opens the ledger and does what it is told."""

    def __init__(self, popen: subprocess.Popen[str]) -> None:
        assert popen.stdin is not None
        assert popen.stdout is not None
        self.popen = popen
        self._stdin, self._stdout = popen.stdin, popen.stdout

    def say(self, command: str) -> None:
        self._stdin.write(command + "\n")
        self._stdin.flush()

    def hear(self) -> Any:
        """Its next answer; None when it ended."""
        line = self._stdout.readline()
        return json.loads(line) if line.endswith("\n") else None

    def do(self, command: str) -> Any:
        self.say(command)
        return self.hear()

    def rest(self) -> list[Any]:
        """All that it still said before it was killed."""
        return [json.loads(line) for line in self._stdout if line.endswith("\n")]

    def signal(self, number: int) -> None:
        self.popen.send_signal(number)


class Start(Protocol):
    def __call__(
        self, *, standby: bool = ..., hold_seconds: float = ..., wait: bool = ...
    ) -> Copy: ...


@pytest.fixture
def start(url: str, actor: str) -> Iterator[Start]:
    """Starts a copy of this test's actor; unless `wait` is false it holds the ledger then."""
    with ExitStack() as stack:

        def start_(
            *, standby: bool = False, hold_seconds: float = HOLD_SECONDS, wait: bool = True
        ) -> Copy:
            program = Path(__file__).with_name("one_copy.py")
            options = json.dumps({"standby": standby, "hold_seconds": hold_seconds})
            popen = subprocess.Popen(
                [sys.executable, str(program), url, actor, options],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(popen)
            stack.callback(popen.kill)
            copy = Copy(popen)
            assert copy.hear() == "started"
            if wait:
                assert copy.hear()["open"]
            return copy

        yield start_


class Network:
    """A way to the server that can be cut after any byte, in either direction."""

    def __init__(self, to: tuple[str, int] | str) -> None:
        self._to = to
        self._lock = threading.Lock()
        self._left: dict[str, int | None] = {"up": None, "down": None}
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self.cuts = 0
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._door.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def cut_after(self, direction: str, count: int) -> None:
        """Let `count` more bytes go `up` to the server, or `down`, then cut all connections."""
        with self._lock:
            self._left[direction] = count

    def heal(self) -> None:
        with self._lock:
            self._left = {"up": None, "down": None}

    def cut(self) -> None:
        with self._lock:
            self.cuts += 1
            self._left = {"up": None, "down": None}
            for pair in self._pairs:
                for one in pair:
                    with suppress(OSError):
                        one.shutdown(socket.SHUT_RDWR)
            self._pairs.clear()

    def close(self) -> None:
        self._door.shutdown(socket.SHUT_RDWR)
        self._door.close()
        self.cut()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._door.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX if isinstance(self._to, str) else socket.AF_INET)
            try:
                server.connect(self._to)
            except OSError:
                client.close()
                server.close()
                continue
            with self._lock:
                self._pairs.append((client, server))
            open_ends = [2]
            for direction, source, sink in (("up", client, server), ("down", server, client)):
                thread = threading.Thread(
                    target=self._pump, args=(direction, source, sink, open_ends), daemon=True
                )
                self._threads.append(thread)
                thread.start()

    def _pump(
        self, direction: str, source: socket.socket, sink: socket.socket, open_ends: list[int]
    ) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                let, cut = self._allowed(direction, len(data))
                sink.sendall(data[:let])
                if cut:
                    self.cut()
                    break
            sink.shutdown(socket.SHUT_WR)
        with self._lock:
            open_ends[0] -= 1
            if not open_ends[0]:
                source.close()
                sink.close()

    def _allowed(self, direction: str, size: int) -> tuple[int, bool]:
        with self._lock:
            left = self._left[direction]
            if left is None:
                return size, False
            self._left[direction] = max(left - size, 0)
            return (size, False) if size < left else (left, True)


@pytest.fixture
def network(postgres: Postgres) -> Iterator[Network]:
    network = Network(str(postgres.folder / f".s.PGSQL.{postgres.port}"))
    yield network
    network.close()


@pytest.fixture
def far_url(postgres: Postgres, network: Network) -> str:
    """The server's, by way of `network`."""
    parts = urlsplit(postgres.url)
    return urlunsplit(parts._replace(netloc=f"{parts.username}@127.0.0.1:{network.port}"))
