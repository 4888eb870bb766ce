"""Driver `ssh` on real nodes. Invariants: CLEAN, DURABLE (handlers are idempotent), rule 11."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path

import paramiko
import pytest

from shirako.handlers import HandlerFailed, UnitJob, Unsuitable
from shirako.testbed import Node, Site, Testbed
from shirako_drivers.accounts import AccountOptions, account_of
from shirako_drivers.ssh import SshDriver

pytestmark = [pytest.mark.real, pytest.mark.root]

Jobs = Callable[..., UnitJob]
Run = Callable[..., subprocess.CompletedProcess[str]]
MakeDriver = Callable[..., SshDriver]

CHECKS = (
    "account_gone",
    "home_gone",
    "keys_gone",
    "processes_gone",
    "files_gone",
    "files_restored",
    "login_refused",
)


LOOK = """cat /etc/motd /etc/hostname; hostname; ls -a /etc /home /tmp /var/mail /var/spool
cat /etc/passwd /etc/shadow /etc/group /etc/gshadow; cat /etc/subuid /etc/subgid 2>&1"""


async def test_a_whole_life(
    driver: SshDriver,
    node: Node,
    make_job: Jobs,
    inside: Run,
    ssh: Run,
    ssh_command: Callable[[Node, str], list[str]],
) -> None:
    before = inside(node, LOOK).stdout
    job = make_job(node, properties={"host.prefix": "web"})
    story: list[str] = []
    outputs = await driver.setup(job, story.append)

    assert outputs == {
        "host": node.host,
        "port": "22",
        "user": "s-green",
        "host_key": node.host_key,
        "host.name": f"web-{node.name}",
        "home": "/home/s-green",
    }
    assert any("account s-green made" in line for line in story)
    assert any("one-time key" in line for line in story)
    hello = ssh(node, "s-green", "id -un; hostname; echo $HOME; cat /etc/motd")
    assert hello.stdout.splitlines()[:3] == ["s-green", f"web-{node.name}", "/home/s-green"]
    assert "slice green until 2033-05-18 03:33:20 UTC" in hello.stdout
    assert inside(node, "cat /home/s-green/.ssh/authorized_keys").stdout.strip() == job.keys[0]
    assert inside(node, "stat -c %a:%U /home/s-green /home/s-green/.ssh").stdout.split() == [
        "700:s-green",
        "700:s-green",
    ]
    await driver.probe(job, story.append)

    leave_traces = """
        nohup sleep 1000 >/dev/null 2>&1 &
        setsid sh -c 'while :; do sleep 1000; done' >/dev/null 2>&1 </dev/null &
        touch /tmp/plain "/tmp/-rf *" /var/tmp/other; mkdir -p /dev/shm/deep/er
        touch '/tmp/new
line'; ipcmk -M 100; ipcmk -Q; ipcmk -S 1"""
    assert ssh(node, "s-green", leave_traces).returncode == 0
    uid = inside(node, "id -u s-green").stdout.strip()
    with _open_session(ssh_command(node, "s-green")) as held:
        assert await driver.teardown(job, story.append) == CHECKS
        assert held.wait(timeout=10) != 0

    assert ssh(node, "s-green", "id").returncode == 255
    # The tools of account files keep a copy of the last but one.
    assert _without_backups(inside(node, LOOK).stdout) == _without_backups(before)
    assert inside(node, f"find / -xdev -uid {uid}").stdout == ""
    assert inside(node, f"find /dev/shm /run -uid {uid}").stdout == ""
    assert uid not in inside(node, "cat /proc/sysvipc/*").stdout.split()
    assert _processes_of(uid) == []
    await driver.probe(replace(job, lease=""), story.append)


async def test_every_handler_may_run_again(
    driver: SshDriver, node: Node, make_job: Jobs, ssh: Run
) -> None:
    never = make_job(node)
    assert await driver.teardown(never, print) == CHECKS
    assert await driver.teardown(never, print) == CHECKS
    job = make_job(node)
    assert await driver.setup(job, print) == await driver.setup(job, print)
    assert ssh(node, "s-green", "id -un").stdout == "s-green\n"
    assert await driver.teardown(job, print) == CHECKS
    assert await driver.teardown(job, print) == CHECKS


@pytest.mark.parametrize("delay", [0.04, 0.09, 0.15])
async def test_a_handler_cut_short_anywhere_is_made_good_by_the_next(
    driver: SshDriver, node: Node, make_job: Jobs, inside: Run, ssh: Run, delay: float
) -> None:
    """DURABLE: as after `kill -9` of the authority, the node goes on with what it had begun."""
    before = inside(node, LOOK).stdout
    job = make_job(node)
    await _cut_short(driver.setup(job, print), delay)
    await driver.setup(job, print)
    assert ssh(node, "s-green", "id -un").stdout == "s-green\n"
    await _cut_short(driver.teardown(job, print), delay)
    assert await driver.teardown(job, print) == CHECKS
    assert _without_backups(inside(node, LOOK).stdout) == _without_backups(before)

    job = make_job(node)
    await _cut_short(driver.setup(job, print), delay)
    assert await driver.teardown(job, print) == CHECKS
    await asyncio.sleep(0.2)  # what still ran would have done its harm by now
    assert _without_backups(inside(node, LOOK).stdout) == _without_backups(before)


async def test_an_older_assignment_is_refused(
    driver: SshDriver, node: Node, make_job: Jobs, ssh: Run
) -> None:
    old, new = make_job(node), make_job(node)
    await driver.setup(new, print)
    for handler in (driver.setup, driver.teardown, driver.probe):
        with pytest.raises(HandlerFailed, match=f"stale: epoch {old.epoch}"):
            await handler(old, print)
    assert ssh(node, "s-green", "true").returncode == 0


async def test_a_setup_that_arrives_after_its_own_teardown_is_refused(
    driver: SshDriver, node: Node, make_job: Jobs, ssh: Run
) -> None:
    job = make_job(node)
    await driver.teardown(job, print)
    with pytest.raises(HandlerFailed, match="torn down"):
        await driver.setup(job, print)
    assert ssh(node, "s-green", "true").returncode == 255


@pytest.fixture
async def slow_useradd(node: Node, inside: Run) -> AsyncIterator[None]:
    inside(
        node,
        "printf '#!/bin/sh\\nsleep 777\\nexec /usr/sbin/useradd \"$@\"\\n' "
        ">/usr/local/sbin/useradd && chmod 755 /usr/local/sbin/useradd",
    )
    yield
    inside(node, "rm /usr/local/sbin/useradd")


@pytest.mark.usefixtures("slow_useradd")
@pytest.mark.parametrize("newer", [False, True], ids=["same epoch", "newer epoch"])
async def test_a_setup_that_still_runs_is_ended_by_the_teardown(
    node: Node, ssh_driver: MakeDriver, make_job: Jobs, inside: Run, newer: bool
) -> None:
    hasty = ssh_driver(command_timeout=0.7)
    job = make_job(node)
    with pytest.raises(HandlerFailed, match=r"took longer than 0\.7 s"):
        await hasty.setup(job, print)
    assert inside(node, "pgrep -x -f 'sleep 777'").stdout
    await hasty.close()

    story: list[str] = []
    patient = ssh_driver()
    await patient.teardown(make_job(node) if newer else job, story.append)
    assert inside(node, "pgrep -x -f 'sleep 777'", check=False).stdout == ""
    assert any("ended an older handler" in line for line in story)
    assert "s-green" not in inside(node, "cat /etc/passwd /etc/group").stdout
    await patient.close()


@pytest.mark.usefixtures("slow_useradd")
async def test_a_cancelled_handler_leaves_its_thread(
    node: Node, ssh_driver: MakeDriver, make_job: Jobs, inside: Run
) -> None:
    driver = ssh_driver(connections=1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.7):
            await driver.setup(make_job(node), print)
    # The one thread is free again, and the session on the node ended.
    await asyncio.wait_for(driver.teardown(make_job(node), print), 5)
    assert inside(node, "pgrep -x -f 'sleep 777'", check=False).stdout == ""
    await asyncio.wait_for(driver.close(), 5)


async def test_another_host_key_is_refused(
    driver: SshDriver, site: Site, node: Node, make_job: Jobs
) -> None:
    job = make_job(node)
    job = replace(job, node={**job.node, "host_key": site.nodes[1].host_key})
    with pytest.raises(HandlerFailed, match="another host key"):
        await driver.setup(job, print)


async def test_a_node_that_never_answers_is_given_up(
    ssh_driver: MakeDriver, node: Node, make_job: Jobs
) -> None:
    driver = ssh_driver(connect_timeout=0.3, attempts=2)
    job = make_job(node)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        where = {"host": "127.0.0.1", "port": str(silent.getsockname()[1])}
        with pytest.raises(HandlerFailed, match="in 2 attempts"):
            await asyncio.wait_for(driver.setup(replace(job, node={**job.node, **where}), print), 5)
        silent.listen(0)
    with pytest.raises(HandlerFailed, match="refused"):
        await driver.setup(replace(job, node={**job.node, **where}), print)
    await driver.close()


class _Undecided(paramiko.ServerInterface):
    """An sshd that hangs up, or falls silent, when it is shown a key."""

    def __init__(self, transport: paramiko.Transport, hangs_up: bool) -> None:
        self._transport = transport
        self._hangs_up = hangs_up

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        if self._hangs_up:
            self._transport.sock.close()
        else:
            time.sleep(1)
        return paramiko.common.AUTH_FAILED

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"


@pytest.mark.parametrize("hangs_up", [True, False], ids=["hangs up", "silent"])
async def test_no_answer_to_a_key_is_not_taken_for_a_refusal(
    ssh_driver: MakeDriver, node: Node, make_job: Jobs, guest_key: Path, hangs_up: bool
) -> None:
    """Else a teardown would believe that the guest's login is refused when the node is ill."""
    driver = ssh_driver(connect_timeout=0.4, attempts=2)
    host_key = paramiko.PKey.from_path(guest_key)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        job = make_job(node)
        where = {
            "host": "127.0.0.1",
            "port": str(listener.getsockname()[1]),
            "host_key": f"{host_key.get_name()} {host_key.get_base64()}",
        }
        handler = asyncio.create_task(
            driver.teardown(replace(job, node={**job.node, **where}), print)
        )
        transports = []
        for _ in range(2):
            connection, _ = await asyncio.to_thread(listener.accept)
            transport = paramiko.Transport(connection)
            transport.set_log_channel("shirako_drivers.paramiko")
            transport.add_server_key(host_key)
            # not waited for: it may have hung up before it is told that it has begun
            transport.start_server(threading.Event(), _Undecided(transport, hangs_up))
            transports.append(transport)
        with pytest.raises(HandlerFailed, match="in 2 attempts"):
            await handler
        for transport in transports:
            await asyncio.to_thread(transport.close)
    await driver.close()


async def test_a_node_that_comes_back_is_tried_again(
    ssh_driver: MakeDriver, testbed: Testbed, node: Node, make_job: Jobs, ssh: Run
) -> None:
    driver = ssh_driver(attempts=10, retry_pause=0.01)
    testbed.kill_node(node.name)
    story: list[str] = []
    failed = asyncio.Event()

    def log(line: str) -> None:
        story.append(line)
        failed.set()

    setting_up = asyncio.create_task(driver.setup(make_job(node), log))
    await failed.wait()
    await asyncio.to_thread(testbed.start_node, node.name)
    await setting_up
    assert "trying again" in story[0]
    assert ssh(node, "s-green", "true").returncode == 0
    await driver.close()


async def test_a_full_disk_fails_the_setup_and_not_the_teardown(
    driver: SshDriver, node: Node, make_job: Jobs, inside: Run
) -> None:
    inside(node, "mount -t tmpfs -o size=16k tmpfs /home; head -c 16k /dev/zero >/home/full")
    try:
        job = make_job(node)
        with pytest.raises(HandlerFailed, match=r"home.*cannot be made: .*No space left on device"):
            await driver.setup(job, print)
        assert await driver.teardown(job, print) == CHECKS
    finally:
        inside(node, "umount /home")


async def test_a_disk_that_the_guest_filled_stops_no_teardown(
    driver: SshDriver, node: Node, make_job: Jobs, inside: Run, ssh: Run
) -> None:
    """The guest's files, the account files and the fence share the disk, and it is full."""
    inside(
        node,
        "mkdir -p /var/lib/shirako && mount -t tmpfs -o size=600k tmpfs /mnt && "
        "mkdir /mnt/state /mnt/home && mount --bind /mnt/home /home && "
        "mount --bind /mnt/state /var/lib/shirako",
    )
    try:
        job = make_job(node)
        await driver.setup(job, print)
        fill = ssh(node, "s-green", "cat /dev/zero >big; for i in $(seq 2000); do echo >f$i; done")
        assert "No space left" in fill.stderr
        assert await driver.teardown(job, print) == CHECKS
    finally:
        inside(node, "umount /var/lib/shirako /home /mnt")


NASTY = "$(touch /tmp/owned)`touch /tmp/owned`';touch /tmp/owned;'\"\n/tmp/owned"


async def test_what_a_guest_writes_is_never_run(
    driver: SshDriver, node: Node, make_job: Jobs, inside: Run, ssh: Run
) -> None:
    job = make_job(
        node,
        slice=NASTY,
        lease=NASTY,
        type=NASTY,
        properties={"user": NASTY, "host.prefix": NASTY, NASTY: NASTY},
    )
    outputs = await driver.setup(job, print)
    assert ssh(node, outputs["user"], "id -un").stdout.strip() == outputs["user"]
    assert f"leased to slice {NASTY}" in inside(node, "cat /etc/motd").stdout
    await driver.teardown(job, print)
    assert inside(node, "ls /tmp/owned", check=False).returncode != 0


async def test_a_file_that_cannot_be_removed_fails_the_teardown(
    driver: SshDriver, node: Node, make_job: Jobs, inside: Run, ssh: Run
) -> None:
    """CLEAN is checked, not assumed; once the obstacle is gone, the next try succeeds."""
    job = make_job(node)
    await driver.setup(job, print)
    ssh(node, "s-green", "mkdir /tmp/kept; touch /tmp/kept/file")
    inside(node, "mount --bind /etc/hosts /tmp/kept/file")
    try:
        with pytest.raises(HandlerFailed, match="left: file /tmp/kept of s-green"):
            await driver.teardown(job, print)
    finally:
        inside(node, "umount /tmp/kept/file")
    assert await driver.teardown(job, print) == CHECKS
    assert inside(node, "ls /tmp/kept", check=False).returncode != 0


def test_an_admin_key_that_cannot_be_read_is_named(ssh_driver: MakeDriver, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="absent"):
        ssh_driver(admin_key=tmp_path / "absent")
    (tmp_path / "garbled").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n")
    with pytest.raises(ValueError, match="can be read by others: chmod 600"):
        ssh_driver(admin_key=tmp_path / "garbled")
    (tmp_path / "garbled").chmod(0o600)
    with pytest.raises(ValueError, match="garbled is not a private key") as caught:
        ssh_driver(admin_key=tmp_path / "garbled")
    assert "c2VjcmV0" not in str(caught.value)


async def test_an_account_that_is_not_ours_is_left_alone(
    driver: SshDriver, node: Node, make_job: Jobs, inside: Run
) -> None:
    inside(node, "useradd -m -c somebody s-green")
    try:
        job = make_job(node)
        with pytest.raises(
            Unsuitable, match="an account s-green exists on the node that is not ours"
        ):
            await driver.setup(job, print)
        assert await driver.teardown(job, print) == CHECKS
        assert inside(node, "id -un s-green; ls -d /home/s-green").returncode == 0
        # Of the same name and number, it may be ours and have lost its mark.
        inside(node, f"usermod -u {account_of(job, AccountOptions()).uid} s-green")
        with pytest.raises(HandlerFailed, match="not marked as ours"):
            await driver.teardown(job, print)
        assert inside(node, "id -un s-green; ls -d /home/s-green").returncode == 0
    finally:
        inside(node, "userdel -r s-green")


async def test_a_number_that_is_somebody_elses_is_no_fault_of_the_unit(
    driver: SshDriver, node: Node, make_job: Jobs, inside: Run
) -> None:
    job = make_job(node)
    uid = account_of(job, AccountOptions()).uid
    inside(node, f"useradd -u {uid} somebody; setpriv --reuid {uid} sleep 778 >/dev/null 2>&1 &")
    try:
        with pytest.raises(Unsuitable, match=f"{uid}, is somebody's on the node"):
            await driver.setup(job, print)
        assert await driver.teardown(job, print) == CHECKS
        assert await driver.survey([replace(job, lease="")], print) == []
        assert inside(node, "pgrep -x -f 'sleep 778'").stdout
    finally:
        inside(node, "pkill -x -f 'sleep 778'")
        inside(node, "timeout 10 sh -c 'until userdel somebody; do sleep 0.1; done'")


async def test_a_unit_with_another_account_of_ours_is_refused(
    driver: SshDriver, node: Node, make_job: Jobs
) -> None:
    await driver.setup(make_job(node), print)
    with pytest.raises(HandlerFailed, match="still holds the account s-green"):
        await driver.setup(make_job(node, slice="red"), print)
    with pytest.raises(HandlerFailed, match="left of an earlier lease: account s-green"):
        await driver.probe(make_job(node, lease=""), print)


async def test_a_node_that_lost_its_notes_is_cleaned_all_the_same(
    driver: SshDriver, node: Node, make_job: Jobs, inside: Run
) -> None:
    await driver.setup(make_job(node), print)
    inside(node, "rm -r /var/lib/shirako")
    with pytest.raises(HandlerFailed, match="left of an earlier lease: account s-green"):
        await driver.probe(make_job(node, lease=""), print)
    assert await driver.teardown(make_job(node, slice="red"), print) == CHECKS
    assert "s-green" not in inside(node, "cat /etc/passwd; ls /home").stdout
    inside(node, f"echo {node.name} >/etc/hostname; hostname {node.name}")


async def test_a_probe_sees_what_is_missing(
    driver: SshDriver, ssh_driver: MakeDriver, node: Node, make_job: Jobs
) -> None:
    with pytest.raises(HandlerFailed, match="the account s-green is missing"):
        await driver.probe(make_job(node), print)
    greedy = ssh_driver(min_free_mb=10**9)
    with pytest.raises(HandlerFailed, match="MiB are free"):
        await greedy.probe(make_job(node, lease=""), print)
    await greedy.close()


async def test_a_site_renders_its_own_files(
    ssh_driver: MakeDriver, node: Node, make_job: Jobs, inside: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "templates"
    (folder / "etc/site").mkdir(parents=True)
    (folder / "etc/motd.j2").write_text("unit {{ unit }} of {{ properties['color'] }}")
    (folder / "etc/site/it's.conf.j2").write_text("user={{ user }}\n")
    driver = ssh_driver(templates=folder)
    job = make_job(node, properties={"color": "{{ lease }} $HOME"})
    motd = inside(node, "cat /etc/motd").stdout
    await driver.setup(job, print)
    # A second run must not take what the first one wrote for the node's own.
    await driver.setup(job, print)
    rendered = inside(node, 'cat /etc/motd "/etc/site/it\'s.conf"').stdout
    assert rendered == f"unit {node.name} of {{{{ lease }}}} $HOME\nuser=s-green\n"
    await driver.teardown(job, print)
    assert inside(node, "cat /etc/motd").stdout == motd
    assert inside(node, "ls /etc/site").stdout == ""
    with pytest.raises(Unsuitable, match=r"template of /etc/motd: .*color"):
        await driver.setup(make_job(node), print)
    await driver.close()


async def test_a_guest_cannot_turn_a_second_setup_against_the_node(
    driver: SshDriver, node: Node, make_job: Jobs, inside: Run, ssh: Run
) -> None:
    """The node writes keys as the guest: a symbolic link gets the guest nothing it has not."""
    job = make_job(node)
    await driver.setup(job, print)
    inside(node, "mkdir -m 700 /root/target; echo theirs >/root/target/authorized_keys")
    assert ssh(node, "s-green", "mv .ssh ssh && ln -s /root/target .ssh").returncode == 0
    with pytest.raises(HandlerFailed, match="keys of s-green cannot be written"):
        await driver.setup(job, print)
    await driver.teardown(job, print)
    assert inside(node, "cat /root/target/authorized_keys").stdout == "theirs\n"
    inside(node, "rm -r /root/target")


async def test_a_guest_that_forks_without_end_is_ended(
    driver: SshDriver, node: Node, make_job: Jobs, inside: Run, ssh: Run
) -> None:
    job = make_job(node)
    await driver.setup(job, print)
    storm = "for i in 1 2 3 4; do (f() { sleep 0.01; f & f & }; ulimit -u 200; f) & done; sleep 0.3"
    ssh(node, "s-green", f"nohup bash -c '{storm}' >/dev/null 2>&1 </dev/null &")
    assert await driver.teardown(job, print) == CHECKS


async def test_nodes_are_set_up_side_by_side(
    driver: SshDriver, site: Site, make_job: Jobs, ssh: Run
) -> None:
    jobs = [make_job(node) for node in site.nodes]
    outputs = await asyncio.gather(*(driver.setup(job, print) for job in jobs))
    assert [output["host"] for output in outputs] == [node.host for node in site.nodes]
    for node in site.nodes:
        assert ssh(node, "s-green", "hostname").stdout == f"{node.name}\n"
    checks = await asyncio.gather(*(driver.teardown(job, print) for job in jobs))
    assert set(checks) == {CHECKS}


async def test_the_time_of_a_life_beside_that_of_a_login(
    driver: SshDriver, node: Node, make_job: Jobs
) -> None:
    """Four logins and four commands: a life must not cost many times a login and a command."""
    loop = asyncio.get_running_loop()
    logins, lives = [], []
    for _ in range(3):
        start = loop.time()
        await driver.probe(make_job(node, lease=""), print)
        logins.append(loop.time() - start)
        job = make_job(node)
        start = loop.time()
        await driver.setup(job, print)
        await driver.teardown(job, print)
        lives.append(loop.time() - start)
    print(f"login and one command {min(logins):.3f} s, set-up and teardown {min(lives):.3f} s")
    assert min(lives) < 15 * min(logins)


async def test_a_node_without_accounts_takes_and_gives_back_the_keys(
    driver: SshDriver, plain_node: Node, make_job: Jobs, ssh: Run
) -> None:
    job = make_job(plain_node)
    await driver.probe(replace(job, lease=""), print)
    outputs = await driver.setup(job, print)
    assert outputs["accounts"] == "false"
    assert outputs["user"] == plain_node.admin_user
    assert ssh(plain_node, outputs["user"], "id -un").stdout.strip() == outputs["user"]
    assert plain_node.guest_keys is not None
    assert plain_node.guest_keys.read_text().strip() == job.keys[0]
    await driver.probe(job, print)
    with pytest.raises(HandlerFailed, match="keys of a guest are left"):
        await driver.probe(replace(job, lease=""), print)
    assert await driver.teardown(job, print) == ("keys_gone", "login_refused")
    assert await driver.teardown(job, print) == ("keys_gone", "login_refused")
    assert ssh(plain_node, outputs["user"], "true").returncode == 255
    with pytest.raises(HandlerFailed, match="torn down"):
        await driver.setup(job, print)


async def _cut_short(handler: Coroutine[None, None, object], delay: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(delay):
            await handler


@contextlib.contextmanager
def _open_session(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [*command, "echo in; cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as held:
        assert held.stdout is not None
        assert held.stdout.readline() == b"in\n"
        yield held


def _processes_of(uid: str) -> list[str]:
    """Processes of this uid anywhere on the machine, nodes included."""
    listed = subprocess.run(["ps", "-U", uid, "-o", "pid=,args="], capture_output=True, text=True)
    return listed.stdout.splitlines()


def _without_backups(listing: str) -> list[str]:
    return [line for line in listing.splitlines() if not line.endswith("-")]
