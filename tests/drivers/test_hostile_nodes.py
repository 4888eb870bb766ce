"""Nodes that lie, babble or fall silent: always `HandlerFailed`, in time and in little memory."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import paramiko
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from shirako.handlers import HandlerFailed, UnitJob, Unsuitable
from shirako.testbed import Site
from shirako_drivers.session import MAX_BEFORE_LOGIN, MAX_RECEIVED
from shirako_drivers.ssh import SshDriver

pytestmark = [
    pytest.mark.real,
    pytest.mark.root,
    # paramiko's server side, which is the node's here, says what it thinks of a client that leaves
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]

Jobs = Callable[..., UnitJob]
MakeDriver = Callable[..., SshDriver]
Serve = Callable[[socket.socket], None]

QUICK = {"connect_timeout": 0.5, "command_timeout": 0.5, "attempts": 1}
some = settings(
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    deadline=None,
)


@pytest.fixture
async def quick(ssh_driver: MakeDriver) -> AsyncIterator[SshDriver]:
    driver = ssh_driver(**QUICK)
    yield driver
    await driver.close()


@contextlib.contextmanager
def listening(serve: Serve) -> Iterator[str]:
    """A server on loopback, each connection in a thread of its own; its port."""
    threads: list[threading.Thread] = []

    def conversation(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            serve(connection)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threads.append(threading.Thread(target=conversation, args=(connection,)))
                threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield str(listener.getsockname()[1])
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()
            for thread in threads:
                thread.join()


async def outcomes(driver: SshDriver, job: UnitJob) -> list[str]:
    """What each handler ended with, all at once; only what is promised may be raised."""

    async def outcome(handler: Coroutine[None, None, object]) -> list[str]:
        try:
            async with asyncio.timeout(20):
                await handler
        except (HandlerFailed, Unsuitable) as error:
            return [str(error)]
        return []

    async def surveyed() -> list[str]:
        async with asyncio.timeout(20):
            return [one.what for one in await driver.survey([job], lambda line: None)]

    handlers = (driver.setup, driver.teardown, driver.probe)
    told = await asyncio.gather(*(outcome(one(job, lambda line: None)) for one in handlers))
    texts = [text for one in (*told, await surveyed()) for text in one]
    assert all(0 < len(text) < 10_000 for text in texts)
    return texts


def at(job: UnitJob, port: str, key: paramiko.PKey | None = None) -> UnitJob:
    where = {"host": "127.0.0.1", "port": port}
    if key is not None:
        where["host_key"] = f"{key.get_name()} {key.get_base64()}"
    return replace(job, node={**job.node, **where})


# Below SSH ------------------------------------------------------------------------------------


@some
@example(b"SSH-2.0-x\r\n" + b"\xff" * 40)
@example(b"SSH-2.0-x\r\n\x00\x00\x00\x0c\x0a\x14" + b"\x00" * 40)
@example(b"SSH-2.0-x\r\n\x7f\xff\xff\xff\x0a\x14" + b"\x00" * 40)
@example(b"SSH-1.5-x\r\n")
@example(b"\xff\xfe\n" * 120)
@given(st.binary(max_size=300) | st.binary(max_size=300).map(b"SSH-2.0-x\r\n".__add__))
def test_rubbish_is_no_ssh(ssh_driver: MakeDriver, site_job: UnitJob, rubbish: bytes) -> None:
    def serve(connection: socket.socket) -> None:
        connection.sendall(rubbish)

    async def talk() -> None:
        driver = ssh_driver(**QUICK)
        with listening(serve) as port:
            told = await outcomes(driver, at(site_job, port))
        await driver.close()
        assert len(told) == 4
        assert all(re.search(r"no SSH to root@127\.0\.0\.1:\d+ in 1 attempts", one) for one in told)

    asyncio.run(talk())


@pytest.fixture
def site_job(site: Site, make_job: Jobs) -> UnitJob:
    return make_job(site.nodes[0])


@pytest.mark.parametrize("opening", [b"", b"SSH-2.0-x\r\n", b"SSH-2.0-x\r\n\x7f\xff\xff\xff"])
async def test_a_node_that_never_stops_sending_is_cut_off(
    quick: SshDriver, site_job: UnitJob, opening: bytes
) -> None:
    sent = 0

    def serve(connection: socket.socket) -> None:
        nonlocal sent
        connection.sendall(opening)
        while sent < 1 << 27:
            sent += connection.send(b"\x55" * (1 << 16))

    with listening(serve) as port, pytest.raises(HandlerFailed, match="no SSH to"):
        await quick.probe(at(site_job, port), print)
    # What the kernel holds for a reader that has gone is not ours.
    assert sent < MAX_BEFORE_LOGIN + (1 << 24)


@some
@given(st.integers(0, 4500), st.booleans(), st.booleans())
@example(0, True, True)
def test_a_connection_may_break_or_be_garbled_at_any_byte(
    site: Site, ssh_driver: MakeDriver, site_job: UnitJob, place: int, cut: bool, upward: bool
) -> None:
    """A real sshd behind a line that ends, or changes one byte, in one direction."""
    node = site.nodes[0]

    def serve(connection: socket.socket) -> None:
        with socket.create_connection((node.host, node.port)) as beyond:
            down = (beyond, connection, None if upward else place, cut)
            downward = threading.Thread(target=_pump, args=down)
            downward.start()
            _pump(connection, beyond, place if upward else None, cut)
            downward.join()

    async def talk() -> str:
        driver = ssh_driver(connect_timeout=2, command_timeout=2, attempts=1)
        try:
            with listening(serve) as port:
                job = replace(at(site_job, port), lease="")
                await asyncio.wait_for(driver.probe(job, lambda line: None), 20)
        except HandlerFailed as error:
            return str(error)
        finally:
            await driver.close()
        return ""

    told = asyncio.run(talk())
    assert not told or re.search(r"no SSH to|another host key|refused|took longer", told)


def _pump(source: socket.socket, target: socket.socket, place: int | None, cut: bool) -> None:
    passed = 0
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 14):
            if place is not None and passed <= place < passed + len(data):
                here = place - passed
                if cut:
                    target.sendall(data[:here])
                    break
                data = data[:here] + bytes([data[here] ^ 1]) + data[here + 1 :]
            target.sendall(data)
            passed += len(data)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


# Above SSH ------------------------------------------------------------------------------------


@dataclass
class Script:
    """How a node answers each program: these lines, then this status, or silence."""

    lines: list[bytes]
    status: int | None = 0
    hangs: bool = False
    floods: bytes = b""


class Liar(paramiko.ServerInterface):
    """An sshd that lets everybody in and answers what its script says."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._asked = threading.Event()

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return paramiko.common.AUTH_SUCCESSFUL

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.common.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        threading.Thread(target=self._answer, args=(channel, command)).start()
        return True

    def _answer(self, channel: paramiko.Channel, command: bytes) -> None:
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException, TimeoutError), channel:
            channel.settimeout(2)
            token = b""
            if b"sh -s" in command:
                opening = channel.makefile("rb").readline()
                token = opening.removeprefix(b"token=").strip()
            for line in self._script.lines:
                channel.sendall(line.replace(b"TOKEN", token))
            while self._script.floods:
                channel.sendall(self._script.floods)
            if self._script.hangs:
                while channel.recv(1 << 16):
                    pass
            if self._script.status is not None:
                channel.send_exit_status(self._script.status)


def liar(script: Script, key: paramiko.PKey) -> Serve:
    def serve(connection: socket.socket) -> None:
        transport = paramiko.Transport(connection)
        transport.set_log_channel("shirako_drivers.paramiko")
        transport.add_server_key(key)
        transport.start_server(server=Liar(script))
        while transport.is_active():
            time.sleep(0.01)
        transport.close()

    return serve


@pytest.fixture
def host_key(guest_key: Path) -> paramiko.PKey:
    return paramiko.PKey.from_path(guest_key)


said = """
= done set_up|= done tear_down|= done probe|= done survey|= ready|= |=|!|s-green|! stale
= user s-green|= user -oProxyCommand=id|= user |= user root\x1b[2J|? unsuitable|+ hello|= changed
= free_mb 99|= free_mb -1|= free_mb 9e9|= check account_gone|= left_over account s-x|= missing_key x
"""
answer = st.builds(
    bytes.__add__,
    st.sampled_from([b"TOKEN", b"TOKEN", b"TOKEN", b""]),
    st.sampled_from(re.split(r"[|\n]", said)).map(str.encode)
    | st.sampled_from([b"= free_mb " + b"9" * 5000, b"\xff\xfe\x00"])
    | st.binary(max_size=60),
)
lines = st.lists(answer, max_size=8).map(
    lambda all_: [one + b"\n" for one in all_[:-1]] + all_[-1:]
)


@some
@example([b"TOKEN= ready\n"] * 50, 0, False)
@example([], 0, False)
@example([], None, False)
@example([b"TOKEN= done set_up\nTOKEN= user s-green\n"], 0, True)
@given(lines, st.sampled_from([0, 1, 255, None]), st.booleans())
def test_a_node_may_answer_anything(
    ssh_driver: MakeDriver,
    site_job: UnitJob,
    host_key: paramiko.PKey,
    lines: list[bytes],
    status: int | None,
    hangs: bool,
) -> None:
    async def talk() -> None:
        driver = ssh_driver(**QUICK)
        script = Script(lines, status, hangs=hangs)
        with listening(liar(script, host_key)) as port:
            for told in await outcomes(driver, at(site_job, port, host_key)):
                assert "\x1b" not in told
        await driver.close()

    asyncio.run(talk())


@pytest.mark.parametrize("flood", [b"y\n" * 4000, b"\0" * 9000, b"TOKEN= left_over x\n" * 500])
async def test_a_node_that_never_stops_talking_is_given_up(
    ssh_driver: MakeDriver, site_job: UnitJob, host_key: paramiko.PKey, flood: bytes
) -> None:
    driver = ssh_driver(attempts=1)
    with listening(liar(Script([], floods=flood), host_key)) as port:
        with pytest.raises(HandlerFailed, match="printed 10000 lines or 1048576 bytes"):
            await driver.probe(at(site_job, port, host_key), print)
        (difference,) = await driver.survey([at(site_job, port, host_key)], print)
    assert difference.fault == "missing"
    await driver.close()


async def test_a_node_that_heeds_no_window_is_cut_off(
    ssh_driver: MakeDriver, site_job: UnitJob, host_key: paramiko.PKey
) -> None:
    """paramiko would keep all of it in memory while nobody reads."""
    sent = 0

    class Flood(Liar):
        def _answer(self, channel: paramiko.Channel, command: bytes) -> None:
            nonlocal sent
            transport = channel.get_transport()
            with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
                while sent < 1 << 26:
                    packet = paramiko.Message()
                    packet.add_byte(paramiko.common.cMSG_CHANNEL_EXTENDED_DATA)
                    packet.add_int(channel.remote_chanid)
                    packet.add_int(7)
                    packet.add_string(b"x" * 30_000)
                    transport._send_user_message(packet)  # type: ignore[attr-defined]
                    sent += 30_000

    def serve(connection: socket.socket) -> None:
        transport = paramiko.Transport(connection)
        transport.set_log_channel("shirako_drivers.paramiko")
        transport.add_server_key(host_key)
        transport.start_server(server=Flood(Script([])))
        while transport.is_active():
            time.sleep(0.01)

    driver = ssh_driver(attempts=1)
    with listening(serve) as port, pytest.raises(HandlerFailed, match="no SSH to"):
        await driver.probe(at(site_job, port, host_key), print)
    assert sent < MAX_RECEIVED + (1 << 24)
    await driver.close()


async def test_a_node_that_repeats_the_program_gives_no_key_away(
    ssh_driver: MakeDriver, site_job: UnitJob, host_key: paramiko.PKey
) -> None:
    """A message may end in a story that many read."""
    programs: list[str] = []

    class Echo(Liar):
        def _answer(self, channel: paramiko.Channel, command: bytes) -> None:
            with contextlib.suppress(OSError, EOFError), channel:
                for line in channel.makefile("rb"):
                    programs.append(line.decode())
                    if line.startswith(b"trial_key="):
                        channel.sendall(line)
                    if b"main; exit" in line:
                        break
                channel.send_exit_status(1)

    def serve(connection: socket.socket) -> None:
        transport = paramiko.Transport(connection)
        transport.set_log_channel("shirako_drivers.paramiko")
        transport.add_server_key(host_key)
        transport.start_server(server=Echo(Script([])))
        while transport.is_active():
            time.sleep(0.01)

    driver = ssh_driver(attempts=1)
    with listening(serve) as port, pytest.raises(HandlerFailed, match="one-time key") as caught:
        await driver.setup(at(site_job, port, host_key), print)
    (blob,) = {
        found[1]
        for line in programs
        if (found := re.search(r"trial_blob=(\S+)", line)) and found[1]
    }
    assert blob not in str(caught.value)
    await driver.close()


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("host_key", "ssh-ed25519 AAAA"),
        ("host_key", "ssh-ed25519 not*base64"),
        ("host_key", "ssh-rsa " + "A" * 400),
        ("host_key", ""),
        ("port", "65536"),
        ("port", "-1"),
        ("port", "٢٢"),
        ("port", "9" * 5000),
        ("host", "a..b"),
        ("host", "x" * 300),
        ("host", "\udcff"),
        ("host", ""),
        ("host", "no such.host\0"),
    ],
)
async def test_attributes_that_are_none_blame_the_unit(
    quick: SshDriver, site_job: UnitJob, attribute: str, value: str
) -> None:
    job = replace(site_job, node={**site_job.node, attribute: value})
    for handler in (quick.setup, quick.teardown, quick.probe):
        with pytest.raises(HandlerFailed):
            await handler(job, print)
