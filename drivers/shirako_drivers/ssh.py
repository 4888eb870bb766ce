"""Driver `ssh`: lends a machine by giving the guest an account on it, over SSH.

Every step runs `templates/fence.sh` first. It makes sure, on the node and under a lock there, that
no newer assignment of the unit has begun and that no handler of an older one still runs. Within one
epoch set-up comes before teardown: a set-up that arrives late is refused like an older one.

Node attributes: `host`, `host_key`; optional `port`, `admin_user`. With `accounts="false"` no
account is made: the guest's keys go to the file `guest_keys`, and the guest is the admin user.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal

import paramiko
from pydantic import Field

from shirako import handlers
from shirako.handlers import DescriptorPath, HandlerFailed, Log, UnitJob
from shirako_drivers.accounts import Account, AccountOptions, account_of, host_name
from shirako_drivers.program import COMMAND, program
from shirako_drivers.rendering import NodeFiles
from shirako_drivers.session import (
    Login,
    LoginRefused,
    Session,
    SshOptions,
    load_key,
    one_time_key,
    with_session,
)
from shirako_drivers.threads import Call, Threads

_Step = Literal["set_up", "hand_over", "tear_down", "probe"]
_PHASES: dict[_Step, int] = {"probe": 0, "set_up": 1, "hand_over": 1, "tear_down": 2}

_MARK = "Shirako guest of lease "
"""How the comment field of an account of ours begins."""


class NodeOptions(SshOptions, AccountOptions):
    """Attributes of `<driver name="ssh">`."""

    admin_key: DescriptorPath
    """Private key of the admin user of every node."""
    templates: DescriptorPath | None = None
    """Folder of `*.j2` files that mirrors a node's root."""
    shell: str = Field(default="/bin/bash", pattern=r"^/[A-Za-z0-9/._-]+$")
    min_free_mb: int = Field(default=50, ge=0)
    """MiB free on a fit unit's root file system."""
    clean_paths: str = Field(
        default="/tmp /var/tmp /dev/shm /dev/mqueue /run /run/lock /var/spool /var/crash",  # noqa: S108
        pattern=r"^[A-Za-z0-9/._ -]*$",
    )
    """Folders that every account may write to, separated by blanks; file systems mounted below
    one must be named themselves."""


class SshDriver:
    """Authority side."""

    Options: ClassVar[type[handlers.Options]] = NodeOptions

    def __init__(self, options: NodeOptions) -> None:
        """Raises OSError or ValueError when the admin key or a template cannot be read."""
        self._options = options
        self._admin_key = load_key(options.admin_key)
        self._files = NodeFiles(options.templates)
        self._threads = Threads(options.connections, "ssh")

    async def setup(self, job: UnitJob, log: Log) -> Mapping[str, str]:
        return await self._threads.run(lambda call: self._setup(job, call), log)

    async def teardown(self, job: UnitJob, log: Log) -> tuple[str, ...]:
        return await self._threads.run(lambda call: self._teardown(job, call), log)

    async def probe(self, job: UnitJob, log: Log) -> None:
        await self._threads.run(lambda call: self._probe(job, call), log)

    async def close(self) -> None:
        await self._threads.close()

    def _setup(self, job: UnitJob, call: Call) -> Mapping[str, str]:
        admin = self._admin_login(job)
        trial = one_time_key()

        def work(session: Session) -> str:
            told = self._step("set_up", job, session, call, trial)
            user = told["user"][0]
            # Within the work, because a lost connection needs the trial key written again.
            self._try_login(replace(admin, user=user, key=trial), call)
            self._step("hand_over", job, session, call, trial)
            return user

        user = with_session(admin, self._options, call, work)
        call.log(f"logged in as {user} with a one-time key, which is removed again")
        outputs = {
            "host": admin.host,
            "port": str(admin.port),
            "user": user,
            "host_key": admin.host_key,
        }
        if not _has_accounts(job):
            return outputs | {"accounts": "false", "host.name": job.unit}
        return outputs | {"host.name": host_name(job), "home": f"/home/{user}"}

    def _try_login(self, login: Login, call: Call) -> None:
        lines: list[str] = []
        status = with_session(
            login, self._options, call, lambda session: session.run("id -un", "", lines.append)
        )
        if status != 0 or lines[-1:] != [login.user]:
            raise HandlerFailed(f"a login as {login.user} is answered {lines[-1:]}")

    def _teardown(self, job: UnitJob, call: Call) -> tuple[str, ...]:
        admin = self._admin_login(job)

        def work(session: Session) -> dict[str, list[str]]:
            return self._step("tear_down", job, session, call)

        checks = with_session(admin, self._options, call, work)["check"]
        user = self._account(job).name if _has_accounts(job) else admin.user
        try:
            self._try_login(replace(admin, user=user, key=one_time_key()), call)
        except LoginRefused:
            call.log(f"{job.unit} is clean: {', '.join(checks)}")
            return (*checks, "login_refused")
        raise HandlerFailed(f"the node lets {user} in without a key that is known")

    def _probe(self, job: UnitJob, call: Call) -> None:
        def work(session: Session) -> dict[str, list[str]]:
            return self._step("probe", job, session, call)

        told = with_session(self._admin_login(job), self._options, call, work)
        free = int(told["free_mb"][0])
        if free < self._options.min_free_mb:
            raise HandlerFailed(
                f"{free} MiB are free on {job.unit}, fewer than {self._options.min_free_mb}"
            )

    def _step(
        self,
        step: _Step,
        job: UnitJob,
        session: Session,
        call: Call,
        trial: paramiko.PKey | None = None,
    ) -> dict[str, list[str]]:
        """Run one step; returns what it gave, by name. Raises `HandlerFailed` with its message."""
        given: dict[str, list[str]] = {}
        failure = ""

        def take(line: str) -> None:
            nonlocal failure
            kind, _, text = line.partition(" ")
            if kind == "+":
                call.log(text)
            elif kind == "=":
                name, _, value = text.partition(" ")
                given.setdefault(name, []).append(value)
            elif kind == "!":
                failure = f"{text}: {failure}" if failure else text
            else:
                # What a tool on the node said, perhaps before the failure that it explains.
                failure = line

        account = self._account(job)
        rendered = self._files.render(job, account) if step == "set_up" else {}
        values = self._values(step, job, account, trial)
        layout = "account" if _has_accounts(job) else "shared"
        status = session.run(COMMAND, program(layout, values, rendered), take)
        if status != 0:
            raise HandlerFailed(failure or f"the step {step} ended with status {status}")
        return given

    def _values(
        self, step: _Step, job: UnitJob, account: Account, trial: paramiko.PKey | None
    ) -> dict[str, str]:
        values = {
            "step": step,
            "epoch": str(job.epoch),
            "phase": str(_PHASES[step]),
            "lease": job.lease,
            "keys": "\n".join(job.keys),
            "trial_key": "",
            "trial_blob": "",
        }
        if trial is not None:
            values["trial_blob"] = trial.get_base64()
            # Whatever went wrong later, this key could do no more than this one command.
            values["trial_key"] = (
                f'restrict,command="id -un" {trial.get_name()} {trial.get_base64()}'
            )
        if not _has_accounts(job):
            guest_keys = _attribute(job, "guest_keys")
            return values | {"guest_keys": guest_keys, "state": f"{guest_keys}.shirako"}
        return values | {
            "state": "/var/lib/shirako",
            "user": account.name,
            "uid": str(account.uid),
            "home": account.home,
            "shell": self._options.shell,
            "comment": _MARK + re.sub(r"[^A-Za-z0-9._-]", "-", job.lease),
            "comment_mark": _MARK,
            "host_name": host_name(job),
            "clean_paths": self._options.clean_paths,
        }

    def _account(self, job: UnitJob) -> Account:
        return account_of(job, self._options)

    def _admin_login(self, job: UnitJob) -> Login:
        port = job.node.get("port", "22")
        if not port.isdecimal():
            raise HandlerFailed(f"the port of {job.unit} is not a number: {port!r}")
        return Login(
            host=_attribute(job, "host"),
            port=int(port),
            user=job.node.get("admin_user", "root"),
            host_key=_attribute(job, "host_key"),
            key=self._admin_key,
        )


def _has_accounts(job: UnitJob) -> bool:
    return job.node.get("accounts", "true") != "false"


def _attribute(job: UnitJob, name: str) -> str:
    try:
        return job.node[name]
    except KeyError:
        raise HandlerFailed(f"the unit {job.unit} has no attribute {name}") from None
