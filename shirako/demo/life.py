"""One whole lease on the nodes of a box, and the proof of it.

That is: what the guest's own ssh printed, and that afterwards nothing of the guest is left. The
checks use `ssh` and `ldapsearch`, not our own code.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from shirako.api.models import ExtendRequest, Extension, Lease, LeaseEvent, LeaseRequest, Unit
from shirako.client import Client
from shirako.demo.box import Box
from shirako.testbed import Node

Tell = Callable[[str], None]

HELD_SECONDS = 1800
EXTENDED_SECONDS = 1800
LOGIN_SECONDS = 30.0
GUEST_COMMAND = 'echo "$(id -un)@$(hostname)"; cat work/lease'
LEFT_BEHIND = "sleep 900"
"""What the guest leaves running, for the teardown to find; where it has an account of its own."""


class DemoFailed(Exception):
    """The lease did not live as it should; the message says where it went wrong."""


@dataclass(frozen=True, slots=True)
class Access:
    """The three actors' APIs, each with a token of its own."""

    guest: Client
    site: Client
    broker: Client


@dataclass(slots=True)
class Summary:
    """What one lease went through; all of `after_close` has to be true."""

    mode: str
    """`namespaces`, or `processes` for nodes that have no accounts of their own."""
    states: dict[str, list[str]] = field(default_factory=dict)
    units: list[dict[str, Any]] = field(default_factory=list)
    login: list[str] = field(default_factory=list)
    extended: dict[str, Any] = field(default_factory=dict)
    after_close: dict[str, bool] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        return all(self.after_close.values()) and bool(self.after_close)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


async def until_delegated(broker: Client) -> None:
    """The broker can sell nothing before the site's share has reached it."""
    for _ in range(200):
        if await broker.broker_delegations():
            return
        await asyncio.sleep(0.05)
    raise DemoFailed("the site's delegation did not reach the broker")


async def request(box: Box, access: Access, tell: Tell, *, units: int) -> Lease:
    """A lease, once it is active; what happens on the way is told."""
    await until_delegated(access.broker)
    wanted = LeaseRequest(
        slice="demo",
        type="node.small",
        units=units,
        duration=HELD_SECONDS,
        ssh_keys=(box.guest_key.public,),
    )
    asked = await access.guest.request_lease(wanted)
    tell(f"lease {asked.id}: {units} x {asked.type} asked for")
    async for event in access.guest.watch(asked.id):
        if not isinstance(event, LeaseEvent):
            tell(f"  {event.line.state:14} {event.line.note or event.line.what}")
            continue
        if event.lease.state == "Active":
            return event.lease
        if event.lease.final:
            raise DemoFailed(f"the lease ended as {event.lease.state}: {event.lease.reason}")
    raise DemoFailed("the lease's events ended")


async def whole_life(box: Box, access: Access, tell: Tell, *, units: int) -> Summary:
    """Request, log in, extend, close, and check that nothing is left."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    summary = Summary(mode=box.site.mode)
    lease = await request(box, access, tell, units=units)
    summary.units = [
        {"host": u.host, "port": u.port, "user": u.user, "host_key": u.host_key} for u in lease.held
    ]
    for unit in lease.held:
        status, printed = await login(box, unit, _guest_command(box, unit))
        if status != 0:
            raise DemoFailed(f"the guest can not log in to {unit.name}: {printed}")
        summary.login.append(printed)
        tell(f"logged in to {unit.name}: {printed.splitlines()[0]}")
    summary.extended = _told(await _extend(access.guest, lease, tell))
    await access.guest.close(lease.id, "the demo is over")
    closed = await _until_closed(access.guest, lease, tell)
    summary.after_close = await _after_close(box, lease, tell)
    summary.states = await _states(access, closed)
    summary.seconds = round(loop.time() - begun, 3)
    return summary


def _guest_command(box: Box, unit: Unit) -> str:
    node = next(node for node in box.site.nodes if node.name == unit.name)
    if not node.accounts:
        return GUEST_COMMAND  # the guest's processes are the same user's as everybody's
    return f"{GUEST_COMMAND}; nohup {LEFT_BEHIND} >/dev/null 2>&1 &"


async def _extend(guest: Client, lease: Lease, tell: Tell) -> Extension:
    answer = await guest.extend(lease.id, ExtendRequest(by=EXTENDED_SECONDS))
    tell(
        f"extended from {answer.old_end:%H:%M:%S} to {answer.new_end:%H:%M:%S} UTC; the latest end "
        f"possible is {answer.latest_end:%Y-%m-%d %H:%M}, capped by: {answer.cap}"
    )
    return answer


def _told(answer: Extension) -> dict[str, Any]:
    told = answer.model_dump(mode="json")
    return {name: told[name] for name in ("old_end", "new_end", "latest_end", "cap")}


async def _until_closed(guest: Client, lease: Lease, tell: Tell) -> Lease:
    async for event in guest.watch(lease.id):
        if isinstance(event, LeaseEvent) and event.lease.final:
            tell(f"lease {lease.id} is {event.lease.state}: {event.lease.reason}")
            return event.lease
    raise DemoFailed("the lease's events ended")


async def _states(access: Access, lease: Lease) -> dict[str, list[str]]:
    (at_site,) = await access.site.site_leases(lease=lease.id)
    holder = at_site.holder
    stories = {
        "service-manager": await access.guest.story(lease.id),
        "broker": await access.broker.broker_story(holder, lease.id),
        "authority": await access.site.site_story(holder, lease.id),
    }
    passed: dict[str, list[str]] = {}
    for role, story in stories.items():
        passed[role] = ["Nascent"]
        for line in story:
            if line.state and line.state != passed[role][-1]:
                passed[role].append(line.state)
    return passed


async def _after_close(box: Box, lease: Lease, tell: Tell) -> dict[str, bool]:
    """Whether nothing of the guest is left, asked of every unit and of the directory."""
    found = {"login_refused": True, "account_gone": True, "processes_gone": True}
    for unit in lease.held:
        status, _ = await login(box, unit, "true")
        found["login_refused"] &= status == 255
        node = next(node for node in box.site.nodes if node.name == unit.name)
        if node.accounts:
            _, printed = await _as_admin(box, node, ["id", "-u", str(unit.user)])
            found["account_gone"] &= "no such user" in printed
        status, _ = await _as_admin(box, node, [f"pgrep -x -f '{LEFT_BEHIND}'"])
        found["processes_gone"] &= status == 1
    users = {str(unit.user) for unit in lease.held}
    found["directory_gone"] = not await _in_directory(box, users)
    tell("after the close: " + ", ".join(f"{name}: {yes}" for name, yes in found.items()))
    return found


async def _in_directory(box: Box, users: set[str]) -> bool:
    where = box.site.directory
    query = "(|" + "".join(f"(uid={user})(memberUid={user})" for user in users)
    query += "(objectClass=ipHost))"
    status, printed = await _run(
        ["ldapsearch", "-x", "-LLL", "-H", where.url, "-b", where.base_dn, query, "dn"]
    )
    if status != 0:
        raise DemoFailed(f"the directory can not be searched: {printed}")
    return bool(printed.strip())


async def login(box: Box, unit: Unit, command: str) -> tuple[int, str]:
    """The guest's own ssh to a unit, with the host key that the lease told and no other."""
    return await _ssh(
        [f"{unit.user}@{unit.host}"],
        key=box.guest_key.private,
        host=str(unit.host),
        port=unit.port or 22,
        host_key=str(unit.host_key),
        command=[command],
    )


async def _as_admin(box: Box, node: Node, command: Sequence[str]) -> tuple[int, str]:
    return await _ssh(
        [f"{node.admin_user}@{node.host}"],
        key=box.site.admin_key,
        host=node.host,
        port=node.port,
        host_key=node.host_key,
        command=command,
    )


async def _ssh(
    target: Sequence[str], *, key: Path, host: str, port: int, host_key: str, command: Sequence[str]
) -> tuple[int, str]:
    with tempfile.TemporaryDirectory(prefix="shirako-demo-") as folder:
        known = Path(folder) / "known_hosts"
        known.write_text(f"{host if port == 22 else f'[{host}]:{port}'} {host_key}\n")
        options = (
            f"UserKnownHostsFile={known}",
            "StrictHostKeyChecking=yes",
            "IdentitiesOnly=yes",
            "BatchMode=yes",
            "ConnectTimeout=10",
            "LogLevel=ERROR",
        )
        flags = [part for option in options for part in ("-o", option)]
        return await _run(
            ["ssh", "-F", "none", "-i", str(key), "-p", str(port), *flags, *target, "--", *command]
        )


async def _run(command: Sequence[str]) -> tuple[int, str]:
    """Exit status, and what was printed on both outputs."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(LOGIN_SECONDS):
            printed, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise DemoFailed(f"{command[0]} did not answer within {LOGIN_SECONDS:g} s") from None
    return process.returncode or 0, printed.decode(errors="replace").strip()
