"""What driver `ssh` finds on real nodes that is not as the ledger says, and how it mends it.

Invariants: CLEAN, and ISOLATED: a guest that works is disturbed by no survey and no mending.
"""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from shirako.handlers import HandlerFailed, UnitJob, Unsuitable
from shirako.testbed import Node, Site
from shirako_drivers.ssh import SshDriver

pytestmark = [pytest.mark.real, pytest.mark.root]

Jobs = Callable[..., UnitJob]
Run = Callable[..., subprocess.CompletedProcess[str]]
MakeDriver = Callable[..., SshDriver]
Found = set[tuple[str, str]]

EVERYTHING = """ls -lAR --time-style=full-iso /etc /home /root /tmp /var/lib /var/mail /var/spool
cat /etc/passwd /etc/group /etc/shadow; hostname"""


async def found(driver: SshDriver, *jobs: UnitJob) -> Found:
    """Faults and what they are, process ids replaced by a word."""
    told = await driver.survey(jobs, print)
    assert all(one.where == "node" for one in told)
    assert {one.unit for one in told} <= {job.unit for job in jobs}
    return {(one.fault, re.sub(r"process \d+", "process PID", one.what)) for one in told}


async def mended(driver: SshDriver, job: UnitJob) -> Found:
    """What is left after the survey's differences were mended."""
    await driver.mend(await driver.survey([job], print), job, print)
    return await found(driver, job)


def left_over(*things: str) -> Found:
    return {("left over", thing) for thing in things}


async def test_a_healthy_node_shows_nothing_and_a_survey_changes_nothing(
    driver: SshDriver, node: Node, make_job: Jobs, inside: Run, ssh: Run
) -> None:
    idle = make_job(node, lease="", slice="")
    before = inside(node, EVERYTHING).stdout
    assert await found(driver, idle) == set()
    assert inside(node, EVERYTHING).stdout == before
    job = make_job(node, properties={"host.prefix": "web"})
    await driver.setup(job, print)
    assert await found(driver, job) == set()
    # What a guest may do at home is no difference.
    at_home = """
        echo ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBLeKgo7vE8QfPmzz8vsQ1g0XyQ3fyy0zZu5v3H5a5v7 me \\
          >>.ssh/authorized_keys
        sed -i 's/^ssh-ed25519/no-pty ssh-ed25519/' .ssh/authorized_keys
        chmod 755 .; touch file; ln -s /etc/shadow link; nohup sleep 779 >/dev/null 2>&1 &"""
    assert ssh(node, "s-green", at_home).returncode == 0
    inside(
        node,
        "chsh -s /bin/sh s-green; "
        'usermod -c "$(getent passwd s-green | cut -d: -f5),room 1,2" s-green',
    )
    before = inside(node, EVERYTHING).stdout
    assert await found(driver, job) == set()
    assert inside(node, EVERYTHING).stdout == before


async def test_a_survey_of_many_nodes_costs_one_login_each(
    driver: SshDriver, site: Site, make_job: Jobs, inside: Run
) -> None:
    def logins() -> list[int]:
        count = "grep -c 'Accepted publickey' /var/log/sshd.log || true"
        return [int(inside(node, count).stdout) for node in site.nodes]

    before = logins()
    jobs = [make_job(node, lease="", slice="") for node in site.nodes]
    assert await found(driver, *jobs) == set()
    assert [now - then for now, then in zip(logins(), before, strict=True)] == [1] * len(jobs)


LEAVINGS = """
    mark='Shirako guest of lease old'
    useradd -m -u 20500 -c "$mark" s-old
    mkdir /home/s-old/.ssh; echo key >/home/s-old/.ssh/authorized_keys
    touch /var/mail/s-old; chown 20500 /var/mail/s-old
    setpriv --clear-groups --reuid 20500 sleep 780 >/dev/null 2>&1 &
    setpriv --clear-groups --reuid 20500 ipcmk -M 100 >/dev/null
    useradd -M -u 1700 -c "$mark" s-elder
    setpriv --clear-groups --reuid 1700 touch /tmp/elder
    setpriv --clear-groups --reuid 20777 sleep 780 >/dev/null 2>&1 &
    setpriv --clear-groups --reuid 20778 mkdir '/tmp/two
lines'
    setpriv --clear-groups --reuid 20778 touch '/tmp/two
lines/below'
    setpriv --clear-groups --reuid 20779 ipcmk -Q >/dev/null
    mkdir /home/s-lost; chown 20780 /home/s-lost
    groupadd -g 20888 s-ghost
    mkdir -p /var/lib/shirako/saved/etc /var/lib/shirako/absent/etc
    echo original >/var/lib/shirako/saved/etc/motd; : >/var/lib/shirako/absent/etc/extra
    echo rendered >/etc/motd; echo rendered >/etc/extra
    hostname >/var/lib/shirako/hostname; hostname leased
    echo s-noted 20501 /home/s-noted >/var/lib/shirako/account
    useradd -m -u 20999 visitor
    setpriv --clear-groups --reuid 20999 sleep 781 >/dev/null 2>&1 &
    setpriv --clear-groups --reuid 20999 touch /tmp/visitor
    groupadd -g 20998 team
"""


async def test_all_that_is_left_on_an_idle_node_is_found_and_taken_away(
    driver: SshDriver, node: Node, make_job: Jobs, inside: Run, person: str
) -> None:
    """What belongs to people of this node or of the directory is not even looked at twice."""
    motd = inside(node, "cat /etc/motd").stdout
    job = make_job(node, lease="", slice="")
    inside(node, LEAVINGS)
    inside(node, f"setpriv --reuid {person} --clear-groups sleep 781 >/dev/null 2>&1 &")
    try:
        before = inside(node, EVERYTHING).stdout
        differences = await found(driver, job)
        assert inside(node, EVERYTHING).stdout == before
        ipc = {what for _, what in differences if "IPC object" in what}
        assert sorted(re.sub(r"\d+ of", "ID of", what) for what in ipc) == [
            "IPC object msq ID of uid 20779",
            "IPC object shm ID of s-old",
        ]
        assert differences - left_over(*ipc) == left_over(
            "account s-old",
            "group s-old",
            "home /home/s-old",
            "keys of s-old",
            "process PID of s-old",
            "file /var/mail/s-old of s-old",
            "account s-elder",
            "group s-elder",
            "file /tmp/elder of s-elder",
            "process PID of uid 20777",
            "file /tmp/two?lines of uid 20778",
            "home /home/s-lost of uid 20780",
            "group s-ghost",
            "file /etc/motd, not restored",
            "file /etc/extra, not restored",
            "host name leased, not restored",
            "note of account s-noted",
        )
        assert await mended(driver, job) == set()
        remaining = inside(
            node, "cat /etc/passwd /etc/group; ls /home /tmp /etc; cat /proc/sysvipc/*"
        )
        for gone in (
            "s-old",
            "s-elder",
            "s-lost",
            "s-ghost",
            "elder",
            "two?lines",
            "extra",
            "2077",
        ):
            assert gone not in remaining.stdout
        assert inside(node, "hostname; cat /etc/motd").stdout == f"{node.name}\noriginal\n"
        assert inside(node, "pgrep -x -f 'sleep 780'", check=False).stdout == ""
        assert len(inside(node, "pgrep -x -f 'sleep 781'").stdout.split()) == 2
        inside(node, "id -un visitor && ls /tmp/visitor /home/visitor && getent group team")
    finally:
        (Path(f"{node.root}") / "etc/motd").write_text(motd)
        inside(
            node,
            "pkill -x -f 'sleep 781'; userdel -r visitor; groupdel team; rm -f /tmp/visitor",
            check=False,
        )


@pytest.fixture
def person(site: Site) -> Iterator[str]:
    """A uid in the guests' range that the directory gives to somebody."""
    directory = site.directory
    bind = ["-x", "-H", directory.url, "-D", directory.bind_dn, "-y", str(directory.password_file)]
    dn = f"uid=ann,{directory.base_dn}"
    entry = f"dn: {dn}\nobjectClass: account\nobjectClass: posixAccount\nuid: ann\ncn: Ann\n"
    numbers = "uidNumber: 20997\ngidNumber: 20997\nhomeDirectory: /home/ada\ngecos: Ann\n"
    subprocess.run(["ldapadd", *bind], input=entry + numbers, text=True, check=True)
    yield "20997"
    subprocess.run(["ldapdelete", *bind, dn], check=True)


KEY = r"key SHA256:[A-Za-z0-9+/]{43} of the lease's"

ROUNDS: tuple[tuple[str, Found], ...] = (
    (
        """
        cd /home/s-green/.ssh; sed -i '/ me$/!d' authorized_keys
        echo 'restrict,command="id -un" ssh-ed25519 AAAA shirako-one-time' >>authorized_keys
        printf '# no end of line' >>authorized_keys
        usermod -c 'Shirako guest of lease other' s-green
        rm /var/lib/shirako/account /etc/motd; hostname other
        useradd -m -c 'Shirako guest of lease x' s-red
        setpriv --reuid $(id -u s-red) --clear-groups sleep 782 >/dev/null 2>&1 &
        useradd -M -o -u $(id -u s-green) -g s-green -c 'Shirako guest of lease x' s-ann
        setpriv --reuid 20777 --clear-groups sleep 782 >/dev/null 2>&1 &
        """,
        {
            ("missing", "KEY"),
            ("left over", "one-time key of s-green"),
            (
                "changed",
                (
                    "account s-green: its comment is 'Shirako guest of lease other', not"
                    " 'Shirako guest of lease lease-1'"
                ),
            ),
            ("missing", "note of account s-green"),
            ("missing", "file /etc/motd"),
            ("changed", "host name: it is other, not node-1"),
        }
        | left_over(
            *("account s-red", "group s-red", "home /home/s-red", "process PID of s-red"),
            *("account s-ann", "process PID of uid 20777"),
        ),
    ),
    (
        "rm -r /home/s-green/.ssh /var/lib/shirako/fence",
        {("missing", "KEY"), ("missing", "note of epoch EPOCH")},
    ),
    ("sed -i /^s-green:/d /etc/passwd", {("missing", "account s-green")}),
    (
        "sed -i /^s-green:/d /etc/passwd /etc/shadow /etc/group; rm -r /home/s-green",
        {
            *(("missing", "account s-green"), ("missing", "group s-green")),
            *(("missing", "home /home/s-green"), ("missing", "KEY")),
        },
    ),
)


async def test_what_is_wrong_on_a_leased_node_is_found_and_mended_around_the_guest(
    driver: SshDriver,
    node: Node,
    make_job: Jobs,
    inside: Run,
    ssh: Run,
    ssh_command: Callable[[Node, str], list[str]],
) -> None:
    job = make_job(node)
    await driver.setup(job, print)
    own_key = "echo no-pty ssh-ed25519 AAAAC3Nza me >>.ssh/authorized_keys; touch kept"
    assert ssh(node, "s-green", own_key).returncode == 0
    with _session(ssh_command(node, "s-green")) as talk:
        assert talk("echo in") == "in"
        for number, (damage, expected) in enumerate(ROUNDS):
            inside(node, damage)
            wanted = {(fault, what.replace("EPOCH", str(job.epoch))) for fault, what in expected}
            seen = {(fault, re.sub(KEY, "KEY", what)) for fault, what in await found(driver, job)}
            assert seen == wanted, number
            assert await mended(driver, job) == set(), number
            assert ssh(node, "s-green", "id -un").stdout == "s-green\n", number
            if number == 0:
                keys = inside(node, "cat /home/s-green/.ssh/authorized_keys").stdout
                assert "no-pty ssh-ed25519 AAAAC3Nza me\n" in keys
            # The guest's own session has seen nothing of all this.
            assert talk("echo alive") == "alive", number
    assert "sleep" not in inside(node, "ps -eo args").stdout.replace("sleep infinity", "")


@contextlib.contextmanager
def _session(command: list[str]) -> Iterator[Callable[[str], str]]:
    """A shell of the guest's that stays open: `talk(command)` returns one line of its answer."""
    with subprocess.Popen(
        [*command, "sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as shell:
        assert shell.stdin is not None
        assert shell.stdout is not None
        stdin, stdout = shell.stdin, shell.stdout

        def talk(line: str) -> str:
            stdin.write(f"{line}\n")
            stdin.flush()
            return stdout.readline().strip()

        yield talk
        stdin.close()


async def test_a_neighbour_is_not_disturbed(
    driver: SshDriver,
    site: Site,
    make_job: Jobs,
    inside: Run,
    ssh_command: Callable[[Node, str], list[str]],
) -> None:
    """Two units of one slice: one lost everything, and the other works."""
    broken, healthy = (make_job(node) for node in site.nodes[:2])
    for job in (broken, healthy):
        await driver.setup(job, print)
    before = inside(site.nodes[1], EVERYTHING).stdout
    inside(site.nodes[0], "userdel -r -f s-green")
    with _session(ssh_command(site.nodes[1], "s-green")) as talk:
        assert talk("echo in") == "in"
        differences = await driver.survey([broken, healthy], print)
        assert {one.unit for one in differences} == {broken.unit}
        await driver.mend(differences, broken, print)
        assert await found(driver, broken, healthy) == set()
        assert talk("echo alive") == "alive"
    assert inside(site.nodes[1], EVERYTHING).stdout == before
    for job in (broken, healthy):
        await driver.teardown(job, print)


@pytest.mark.parametrize(
    "obstacle",
    [
        "rm -r .ssh; ln -s /root .ssh",
        "rm -r .ssh; touch .ssh",
        "rm .ssh/authorized_keys; mkfifo .ssh/authorized_keys",
        "rm .ssh/authorized_keys; ln -s /dev/zero .ssh/authorized_keys",
        "rm .ssh/authorized_keys; ln -s /etc/passwd .ssh/authorized_keys",
        "rm .ssh/authorized_keys; mkdir .ssh/authorized_keys",
    ],
)
async def test_what_a_guest_puts_in_the_way_is_not_the_units_fault(
    driver: SshDriver, node: Node, make_job: Jobs, inside: Run, ssh: Run, obstacle: str
) -> None:
    job = make_job(node)
    await driver.setup(job, print)
    assert ssh(node, "s-green", obstacle).returncode == 0
    before = inside(node, "cat /etc/passwd; ls -lA /root").stdout
    differences = await driver.survey([job], print)
    assert [one.fault for one in differences] == ["missing"]
    with pytest.raises(Unsuitable, match="the guest"):
        await driver.mend(differences, job, print)
    assert inside(node, "cat /etc/passwd; ls -lA /root").stdout == before


async def test_a_file_of_keys_without_end_is_not_made_longer(
    driver: SshDriver, node: Node, make_job: Jobs, inside: Run, ssh: Run
) -> None:
    job = make_job(node)
    await driver.setup(job, print)
    fill = "head -c 3000000 /dev/urandom >.ssh/authorized_keys; sha256sum .ssh/authorized_keys"
    digest = ssh(node, "s-green", fill).stdout.split()[0]
    differences = await driver.survey([job], print)
    assert [one.fault for one in differences] == ["missing"]
    with pytest.raises(Unsuitable, match="too large"):
        await driver.mend(differences, job, print)
    assert digest in inside(node, "sha256sum /home/s-green/.ssh/authorized_keys").stdout


async def test_a_node_that_does_not_answer_is_missing_and_the_others_are_seen(
    driver: SshDriver, site: Site, make_job: Jobs, node: Node, inside: Run
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
    job = make_job(site.nodes[1], lease="", slice="")
    away = replace(job, node={**job.node, "host": "127.0.0.1", "port": port})
    inside(node, "groupadd -g 20888 s-ghost")
    differences = await driver.survey([away, make_job(node, lease="", slice="")], print)
    assert [(one.unit, one.fault) for one in differences] == [
        (away.unit, "missing"),
        (node.name, "left over"),
    ]
    assert differences[0].what.startswith(f"the node: no SSH to root@127.0.0.1:{port}")
    with pytest.raises(HandlerFailed, match="refused"):
        await driver.mend(differences[:1], away, print)


@pytest.fixture
async def stuck_setup(
    node: Node, ssh_driver: MakeDriver, make_job: Jobs, inside: Run
) -> AsyncIterator[UnitJob]:
    """A set-up that its driver gave up, and that still runs on the node."""
    inside(
        node,
        "printf '#!/bin/sh\\nsleep 783\\n' >/usr/local/sbin/useradd && "
        "chmod 755 /usr/local/sbin/useradd",
    )
    hasty = ssh_driver(command_timeout=0.7)
    job = make_job(node)
    with pytest.raises(HandlerFailed, match="took longer"):
        await hasty.setup(job, print)
    await hasty.close()
    yield job
    inside(node, "rm /usr/local/sbin/useradd")


async def test_an_older_handler_that_still_runs_is_found_and_ended(
    driver: SshDriver, node: Node, make_job: Jobs, inside: Run, stuck_setup: UnitJob
) -> None:
    job = make_job(node, lease="", slice="")
    differences = await found(driver, job)
    assert left_over(f"handler of epoch {stuck_setup.epoch}, still running") <= differences
    assert left_over("note of account s-green", "group s-green") <= differences
    assert inside(node, "pgrep -x -f 'sleep 783'").stdout
    assert await mended(driver, job) == set()
    assert inside(node, "pgrep -x -f 'sleep 783'", check=False).stdout == ""


async def test_a_node_that_knows_of_newer_epochs_is_not_touched(
    driver: SshDriver, node: Node, make_job: Jobs, ssh: Run
) -> None:
    """Rule 11, with a ledger that was restored from before."""
    old, new = make_job(node, lease="", slice=""), make_job(node)
    await driver.setup(new, print)
    newer = ("changed", f"epoch {new.epoch}, newer than epoch {old.epoch} of the ledger")
    assert newer in await found(driver, old)
    with pytest.raises(HandlerFailed, match=f"stale: epoch {old.epoch}"):
        await driver.mend(await driver.survey([old], print), old, print)
    assert ssh(node, "s-green", "id -un").stdout == "s-green\n"


async def test_a_lease_whose_unit_was_torn_down_is_not_set_up_again_by_mending(
    driver: SshDriver, node: Node, make_job: Jobs, ssh: Run
) -> None:
    job = make_job(node)
    await driver.setup(job, print)
    await driver.teardown(job, print)
    differences = await found(driver, job)
    assert ("changed", f"epoch {job.epoch}, which was torn down here") in differences
    assert ("missing", "account s-green") in differences
    with pytest.raises(HandlerFailed, match="torn down"):
        await driver.mend(await driver.survey([job], print), job, print)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("s-odd:x:20600:20600:Shirako guest of lease x:/etc:/bin/sh", "home of the account s-odd"),
        ("s-odd:x:0:0:Shirako guest of lease x:/home/s-odd:/bin/sh", "which is the system's"),
        ("s-.*:x:20600:20600:Shirako guest of lease x:/home/s-.*:/bin/sh", "wrong name"),
        ("s-odd:x:33:33:Shirako guest of lease x:/home/s-odd:/bin/sh", "which is the system's"),
        (
            (
                "s-odd:x:20600:20600:Shirako guest of lease x:/home/s-odd:/bin/sh\n"
                "staff:x:20600:20600:staff:/home/visitor:/bin/sh"
            ),
            "also that of staff",
        ),
    ],
)
async def test_a_mark_alone_is_no_licence_to_remove(
    driver: SshDriver, node: Node, make_job: Jobs, inside: Run, line: str, message: str
) -> None:
    """A person decides about an account that says it is ours and looks like the system's."""
    job = make_job(node, lease="", slice="")
    inside(node, f"cp -a /etc/passwd /root/passwd; printf '%s\\n' '{line}' >>/etc/passwd")
    try:
        before = inside(node, EVERYTHING + "; ls -l /etc | wc -l").stdout
        assert ("left over", f"account {line.partition(':')[0]}") in await found(driver, job)
        with pytest.raises(HandlerFailed, match=message):
            await driver.mend(await driver.survey([job], print), job, print)
        after = inside(node, EVERYTHING + "; ls -l /etc | wc -l").stdout
        assert _no_state(after) == _no_state(before)
    finally:
        inside(node, "mv /root/passwd /etc/passwd")


def _no_state(listing: str) -> list[str]:
    """Without the driver's own notes."""
    return [
        line for line in listing.splitlines() if not re.search(r" (fence|lock|shirako|\.)$", line)
    ]


async def test_a_node_without_accounts_is_surveyed_too(
    driver: SshDriver, plain_node: Node, make_job: Jobs
) -> None:
    keys = plain_node.guest_keys
    assert keys is not None
    job = make_job(plain_node)
    idle = replace(job, lease="")
    assert await found(driver, idle) == set()
    assert not Path(f"{keys}.shirako").exists()
    await driver.setup(job, print)
    assert await found(driver, job) == set()
    keys.write_text(f"{keys.read_text()}ssh-ed25519 AAAA me\n")
    assert await found(driver, job) == set()
    keys.write_text("ssh-ed25519 AAAA me\nssh-ed25519 BBBB shirako-one-time\n")
    assert {fault for fault, _ in await found(driver, job)} == {"missing", "left over"}
    assert await mended(driver, job) == set()
    assert keys.read_text().splitlines() == ["ssh-ed25519 AAAA me", job.keys[0]]
    after = make_job(plain_node, lease="")
    assert await found(driver, after) == left_over(f"keys in {keys}")
    assert await mended(driver, after) == set()


async def test_the_number_of_differences_of_a_kind_is_bounded(
    driver: SshDriver, node: Node, make_job: Jobs, inside: Run
) -> None:
    inside(node, "mkdir /tmp/many; cd /tmp/many; touch $(seq 500); chown 20777 *")
    try:
        differences = await found(driver, make_job(node, lease="", slice=""))
        assert len(differences) == 21
        assert ("left over", "file and 480 more, of uid 20777") in differences
    finally:
        inside(node, "rm -r /tmp/many")
