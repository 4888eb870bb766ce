"""Programs on a node whose driver is gone: rule 11, and CLEAN when nobody listens any more."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from shirako.handlers import UnitJob
from shirako.testbed import Node
from shirako_drivers.program import program
from shirako_drivers.ssh import SshDriver

pytestmark = [pytest.mark.real, pytest.mark.root]

Jobs = Callable[..., UnitJob]
Run = Callable[..., subprocess.CompletedProcess[str]]
MakeDriver = Callable[..., SshDriver]

_WRAPPER = """#!/bin/sh
# The first call waits to be released; the others go on at once.
if mkdir /run/called 2>/dev/null; then
  : >/run/waiting
  while [ ! -e /run/released ]; do sleep 0.02; done
  {then}
fi
exec /usr/{folder}/{tool} "$@"
"""


@dataclass
class Brake:
    """Holds back the first call of one tool on a node."""

    node: Node
    inside: Run

    def put_on(self, tool: str, folder: str = "bin", then: str = ":") -> None:
        """`then` is what the first call does when it is released."""
        wrapper = self._path(f"usr/local/{folder}/{tool}")
        wrapper.write_text(_WRAPPER.format(folder=folder, tool=tool, then=then))
        wrapper.chmod(0o755)

    async def reached(self) -> None:
        await asyncio.to_thread(_until, self._path("run/waiting").exists)

    async def release(self) -> None:
        """Let it go on, and wait until the program that called it has ended."""
        self._path("run/released").touch()
        await asyncio.to_thread(_until, self._no_program_runs)

    def take_off(self) -> None:
        self.inside(self.node, "rm -rf /usr/local/*bin/* /run/called /run/waiting /run/released")

    def _no_program_runs(self) -> bool:
        return not self.inside(self.node, "pgrep -f '^sh -s'", check=False).stdout

    def _path(self, name: str) -> Path:
        assert self.node.root is not None
        return self.node.root / name


def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.02)


@pytest.fixture
async def brake(node: Node, inside: Run) -> AsyncIterator[Brake]:
    brake = Brake(node, inside)
    brake.take_off()
    yield brake
    brake.take_off()


async def _abandon(handler: asyncio.Task[object]) -> None:
    """As when the authority is killed: its connections end."""
    handler.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await handler


@pytest.mark.parametrize("tool", ["setsid", "flock"])
async def test_a_program_without_a_driver_does_not_undo_its_successors_work(
    node: Node, ssh_driver: MakeDriver, make_job: Jobs, inside: Run, brake: Brake, tool: str
) -> None:
    """Both are set-ups of one epoch; the one that was delayed on its way has older keys."""
    before, after = ssh_driver(), ssh_driver()
    old = make_job(node, keys=("ssh-ed25519 AAAAold old",))
    new = replace(old, keys=("ssh-ed25519 AAAAnew new",))
    brake.put_on(tool)
    handler: asyncio.Task[object] = asyncio.create_task(before.setup(old, print))
    await brake.reached()
    await _abandon(handler)
    await before.close()
    await after.setup(new, print)
    await brake.release()
    assert inside(node, "cat /home/s-green/.ssh/authorized_keys").stdout == f"{new.keys[0]}\n"
    assert await after.survey([new], print) == []
    await after.close()


async def test_a_program_that_lost_its_turn_asks_for_another(
    node: Node, driver: SshDriver, make_job: Jobs, brake: Brake
) -> None:
    """It is the later one that counts, and its driver still listens."""
    older, job = make_job(node), make_job(node)
    brake.put_on("flock")
    handler = asyncio.create_task(driver.setup(job, print))
    await brake.reached()
    await driver.teardown(older, print)
    await brake.release()
    assert (await handler)["user"] == "s-green"
    assert await driver.survey([job], print) == []


async def test_a_teardown_goes_on_to_its_end_when_nobody_listens(
    node: Node,
    driver: SshDriver,
    ssh_driver: MakeDriver,
    make_job: Jobs,
    inside: Run,
    brake: Brake,
) -> None:
    """Also when a tool says something, which with nobody to read it would end that tool."""
    job = make_job(node)
    await driver.setup(job, print)
    brake.put_on("userdel", "sbin", then="echo careful >&2")
    killed = ssh_driver()
    handler: asyncio.Task[object] = asyncio.create_task(killed.teardown(job, print))
    await brake.reached()
    await _abandon(handler)
    await killed.close()
    await brake.release()
    assert "s-green" not in inside(node, "cat /etc/passwd /etc/group; ls /home").stdout
    assert await driver.survey([replace(job, lease="")], print) == []


async def test_a_program_that_was_cut_short_on_its_way_does_nothing(
    node: Node, driver: SshDriver, make_job: Jobs, inside: Run
) -> None:
    """Wherever the connection broke while the program was sent."""
    text = await _program_of(driver, make_job(node))
    before = inside(node, "ls -lA /home /etc /var/lib; cat /etc/passwd; hostname").stdout
    lengths = [*range(0, len(text), 1500), *range(len(text) - 14, len(text) + 1, 2)]
    for length in lengths:
        assert node.root is not None
        (node.root / "tmp/program").write_text(text[:length])
        inside(node, "setsid -w sh -s </tmp/program >/dev/null 2>&1", check=False)
    inside(node, "rm -f /tmp/program; rmdir /var/lib/shirako 2>/dev/null", check=False)
    after = inside(node, "ls -lA /home /etc /var/lib; cat /etc/passwd; hostname").stdout
    assert after.replace("shirako", "") == before.replace("shirako", "")


async def _program_of(driver: SshDriver, job: UnitJob) -> str:
    """What a set-up sends to the node."""
    account = driver._account(job)
    values = {"token": "TOKEN", **driver._values("set_up", job, account, None)}
    return program("account", values, driver._files.render(job, account))
