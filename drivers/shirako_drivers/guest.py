"""Guest driver `ssh`: runs the guest's own join and leave scripts on its units."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from shirako import handlers
from shirako.handlers import DescriptorPath, HandlerFailed, Log, SecretPath, UnitJob
from shirako_drivers.session import Login, SshOptions, load_key, with_session
from shirako_drivers.threads import Call, Threads


class GuestOptions(SshOptions):
    """Attributes of the guest's `<driver name="ssh">`."""

    key: SecretPath
    """Private key that goes with one of the slice's public keys."""
    join: DescriptorPath | None = None
    leave: DescriptorPath | None = None


class SshGuest:
    """Guest side. A script is a POSIX shell program; it finds what it needs to know in variables:

    SHIRAKO_UNIT, _LEASE, _SLICE, _TYPE, _END (seconds since 1970), _EPOCH; each configuration
    property as SHIRAKO_PROPERTY_NAME and each unit property as SHIRAKO_OUTPUT_NAME, where NAME is
    in capitals and `_` stands for what is neither letter nor digit.
    """

    Options: ClassVar[type[handlers.Options]] = GuestOptions

    def __init__(self, options: GuestOptions) -> None:
        """Raises OSError or ValueError when the key or a script cannot be read."""
        self._options = options
        self._key = load_key(options.key)
        self._join = _script(options.join)
        self._leave = _script(options.leave)
        self._threads = Threads(options.connections, "guest-ssh")

    async def join(self, job: UnitJob, log: Log) -> Mapping[str, str]:
        await self._threads.run(lambda call: self._run("join", self._join, job, call), log)
        return {"joined": "true"}

    async def leave(self, job: UnitJob, log: Log) -> None:
        await self._threads.run(lambda call: self._run("leave", self._leave, job, call), log)

    async def close(self) -> None:
        await self._threads.close()

    def _run(self, name: str, script: str, job: UnitJob, call: Call) -> None:
        text = _prelude(job) + script
        login = self._login(job)
        last = ""

        def take(line: str) -> None:
            nonlocal last
            last = line
            call.log(line)

        status = with_session(
            login, self._options, call, lambda session: session.run("exec sh -s --", text, take)
        )
        if status != 0:
            raise HandlerFailed(f"the {name} script ended with status {status}: {last}")
        call.log(f"{name} done as {login}")

    def _login(self, job: UnitJob) -> Login:
        try:
            return Login(
                host=job.outputs["host"],
                port=int(job.outputs["port"]),
                user=job.outputs["user"],
                host_key=job.outputs["host_key"],
                key=self._key,
            )
        except (KeyError, ValueError) as error:
            raise HandlerFailed(f"the unit properties do not say how to log in: {error}") from None


def _script(path: Path | None) -> str:
    return "" if path is None else path.read_text("utf-8")


def _prelude(job: UnitJob) -> str:
    known = {
        "UNIT": job.unit,
        "LEASE": job.lease,
        "SLICE": job.slice,
        "TYPE": job.type,
        "END": str(job.end),
        "EPOCH": str(job.epoch),
    }
    for kind, properties in (("PROPERTY", job.properties), ("OUTPUT", job.outputs)):
        for name, value in properties.items():
            known[f"{kind}_{re.sub('[^A-Z0-9]', '_', name.upper())}"] = value
    return "".join(f"export SHIRAKO_{name}={shlex.quote(text)}\n" for name, text in known.items())
