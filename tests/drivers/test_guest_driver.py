"""Guest driver `ssh`: the guest's own scripts on real nodes."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shirako.handlers import HandlerFailed, UnitJob
from shirako.testbed import Node, Site
from shirako_drivers.guest import GuestOptions, SshGuest
from shirako_drivers.ssh import SshDriver

pytestmark = [pytest.mark.real, pytest.mark.root]

Run = Callable[..., subprocess.CompletedProcess[str]]
Guest = Callable[..., SshGuest]


@pytest.fixture
async def leased(driver: SshDriver, node: Node, make_job: Callable[..., UnitJob]) -> UnitJob:
    """A unit that is set up: the guest's job, with what the authority told."""
    job = make_job(node, properties={"app.name": 'it\'s; $(id) "x"'})
    return replace(job, node={}, keys=(), outputs=await driver.setup(job, print))


@pytest.fixture
async def guest(guest_key: Path, tmp_path: Path) -> AsyncIterator[Guest]:
    """`guest(join="script", leave="script", **options)`."""
    drivers: list[SshGuest] = []

    def make(join: str = "", leave: str = "", **options: Any) -> SshGuest:
        (tmp_path / "join").write_text(join)
        (tmp_path / "leave").write_text(leave)
        files: dict[str, Any] = {"join": tmp_path / "join", "leave": tmp_path / "leave"}
        quick = {"retry_pause": 0.01, "command_timeout": 20} | options
        drivers.append(SshGuest(GuestOptions(key=guest_key, **files, **quick)))
        return drivers[-1]

    yield make
    for driver in drivers:
        await driver.close()


async def test_scripts_run_as_the_guest_and_know_the_lease(
    guest: Guest, leased: UnitJob, node: Node, inside: Run
) -> None:
    story: list[str] = []
    joiner = guest(
        join="""
            id -un
            echo "$SHIRAKO_UNIT $SHIRAKO_SLICE $SHIRAKO_LEASE $SHIRAKO_TYPE $SHIRAKO_END"
            echo "$SHIRAKO_PROPERTY_APP_NAME / $SHIRAKO_OUTPUT_HOST_NAME"
            echo joined >~/state
            printf '\\033[31mred' >&2
        """,
        leave="rm ~/state",
    )
    assert await joiner.join(leased, story.append) == {"joined": "true"}
    assert story[:4] == [
        "s-green",
        "node-1 green lease-1 node 2000000000",
        'it\'s; $(id) "x" / node-1',
        "?[31mred",
    ]
    assert inside(node, "cat ~s-green/state").stdout == "joined\n"
    await joiner.leave(leased, story.append)
    assert inside(node, "ls ~s-green").stdout == ""


async def test_without_a_script_the_login_is_checked(
    guest_key: Path,
    leased: UnitJob,
    driver: SshDriver,
    site: Site,
    make_job: Callable[..., UnitJob],
) -> None:
    guest = SshGuest(GuestOptions(key=guest_key))
    assert await guest.join(leased, print) == {"joined": "true"}
    await guest.leave(leased, print)
    other = {**leased.outputs, "host_key": site.nodes[1].host_key}
    with pytest.raises(HandlerFailed, match="another host key"):
        await guest.join(replace(leased, outputs=other), print)
    await driver.teardown(make_job(site.nodes[0]), print)
    with pytest.raises(HandlerFailed, match="refused"):
        await guest.join(leased, print)
    await guest.close()


async def test_a_script_that_fails_says_why(guest: Guest, leased: UnitJob) -> None:
    with pytest.raises(HandlerFailed, match="join script ended with status 7: no luck"):
        await guest(join="echo no luck >&2; exit 7").join(leased, print)


async def test_a_script_that_hangs_is_given_up(guest: Guest, leased: UnitJob) -> None:
    story: list[str] = []
    with pytest.raises(HandlerFailed, match="took longer than 1 s"):
        await guest(join="echo start; sleep 60", command_timeout=1).join(leased, story.append)
    assert story == ["start"]


@pytest.mark.parametrize("flood", ["yes", "cat /dev/zero"])
async def test_a_script_that_floods_is_given_up(guest: Guest, leased: UnitJob, flood: str) -> None:
    story: list[str] = []
    with pytest.raises(HandlerFailed, match="printed 10000 lines or 1048576 bytes"):
        await guest(join=flood).join(leased, story.append)
    assert len(story) <= 10_000


async def test_a_unit_without_an_address_fails(guest: Guest, leased: UnitJob) -> None:
    with pytest.raises(HandlerFailed, match="host_key"):
        outputs = {k: v for k, v in leased.outputs.items() if k != "host_key"}
        await guest().join(replace(leased, outputs=outputs), print)
