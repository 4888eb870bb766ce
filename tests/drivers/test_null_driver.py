"""The drivers that touch nothing do what their options say."""

from __future__ import annotations

import asyncio
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from pydantic import ValidationError

from shirako.handlers import Driver, GuestDriver, HandlerFailed, Options, UnitJob
from shirako_drivers.directory import DirectoryDriver
from shirako_drivers.guest import SshGuest
from shirako_drivers.null import NullDriver, NullGuest, NullGuestOptions, NullOptions
from shirako_drivers.ssh import SshDriver

JOB = UnitJob(
    unit="n1",
    epoch=1,
    lease="l1",
    slice="blue",
    type="node",
    end=2_000_000_000,
    node={},
    properties={},
    keys=(),
    outputs={},
)


def driver(**options: str) -> NullDriver:
    return NullDriver(NullOptions.model_validate(options))


def guest(**options: str) -> NullGuest:
    return NullGuest(NullGuestOptions.model_validate(options))


async def test_all_handlers_succeed_by_default() -> None:
    story: list[str] = []
    assert await driver().setup(JOB, story.append) == {"host": "n1"}
    await driver().probe(JOB, story.append)
    assert await driver().teardown(JOB, story.append) == ("nothing_was_touched",)
    assert await guest().join(JOB, story.append) == {"joined": "true"}
    await guest().leave(JOB, story.append)
    assert len(story) == 4


async def test_there_is_nothing_to_find_and_nothing_to_mend() -> None:
    assert await driver().survey([JOB], print) == ()
    await driver().mend([], JOB, print)
    await driver().mend([], None, print)


async def test_only_the_named_handler_fails() -> None:
    with pytest.raises(HandlerFailed, match="teardown of n1"):
        await driver(fail="teardown").teardown(JOB, print)
    await driver(fail="teardown").setup(JOB, print)
    with pytest.raises(HandlerFailed, match="leave of n1"):
        await guest(fail="leave").leave(JOB, print)


async def test_only_the_named_units_fail() -> None:
    with pytest.raises(HandlerFailed):
        await driver(fail="setup", fail_units="n0, n1").setup(JOB, print)
    await driver(fail="setup", fail_units="n0,n2").setup(JOB, print)


@pytest.mark.parametrize("delay", ["0", "0.05"])
async def test_a_delay_takes_as_long_as_it_says(delay: str) -> None:
    loop = asyncio.get_running_loop()
    start = loop.time()
    await driver(delay=delay).setup(JOB, print)
    assert loop.time() - start >= float(delay) - 0.001


async def test_no_delay_means_no_pause_at_all() -> None:
    handler = driver().setup(JOB, print)
    with pytest.raises(StopIteration):
        handler.send(None)


async def test_a_hanging_handler_ends_when_it_is_cancelled() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await driver(hang="probe").probe(JOB, print)


def as_promised(
    drivers: tuple[NullDriver, SshDriver, DirectoryDriver], guests: tuple[NullGuest, SshGuest]
) -> tuple[tuple[Driver, ...], tuple[GuestDriver, ...]]:
    """Type-checked, never called: the drivers keep what the seam promises."""
    return drivers, guests


@pytest.mark.parametrize("group", ["shirako.drivers", "shirako.guest_drivers"])
def test_drivers_are_found_by_name(group: str) -> None:
    ours = [e for e in entry_points(group=group) if e.value.startswith("shirako_drivers.")]
    found = {entry.name: entry.load() for entry in ours}
    assert {"null", "ssh"} <= found.keys()
    for driver_class in found.values():
        assert issubclass(driver_class.Options, Options)


def test_paths_are_taken_from_the_descriptors_folder() -> None:
    options = SshDriver.Options.model_validate(
        {"admin_key": "keys/admin", "connections": "4"}, context={"base": "/etc/shirako"}
    )
    assert options.model_dump()["admin_key"] == Path("/etc/shirako/keys/admin")
    assert options.model_dump()["connections"] == 4


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ValidationError):
        driver(fail="join")
    with pytest.raises(ValidationError):
        guest(speed="1")
