"""Driver `ssh`: lends a machine by giving the guest an account on it, over SSH.

Every step runs `templates/fence.sh` first. It makes sure, on the node and under a lock there, that
no newer assignment of the unit has begun and that no handler of an older one still runs. Within one
epoch set-up comes before teardown: a set-up that arrives late is refused like an older one.

Node attributes: `host`, `host_key`; optional `port`, `admin_user`. With `accounts="false"` no
account is made: the guest's keys go to the file `guest_keys`, and the guest is the admin user.

A survey looks at what a lease's unit needs and at what an idle one must not have. What the guest
may change is no difference: files of its home, keys that it added, its shell. The rendered files
have to be there; their text is not compared, since an extension of the lease makes it old by right.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import paramiko
from pydantic import Field

from shirako import handlers
from shirako.handlers import (
    DescriptorPath,
    Difference,
    HandlerFailed,
    Log,
    SecretPath,
    UnitJob,
    Unsuitable,
)
from shirako_drivers.accounts import (
    DIRECTORY_MARK,
    NODE_MARK,
    Account,
    AccountOptions,
    account_of,
    host_name,
)
from shirako_drivers.answers import Answers
from shirako_drivers.program import COMMAND, Layout, program
from shirako_drivers.rendering import NodeFiles
from shirako_drivers.session import (
    Login,
    LoginRefused,
    Session,
    SshOptions,
    fingerprint,
    load_key,
    one_time_key,
    with_session,
)
from shirako_drivers.threads import Call, Threads

_Step = Literal["set_up", "hand_over", "repair", "tear_down", "probe", "survey"]
_PHASES: dict[_Step, int] = {
    "probe": 0,
    "survey": 0,
    "set_up": 1,
    "hand_over": 1,
    "repair": 1,
    "tear_down": 2,
}
_CHECKS: dict[Layout, tuple[str, ...]] = {
    "account": (
        *("account_gone", "home_gone", "keys_gone", "processes_gone"),
        *("files_gone", "files_restored"),
    ),
    "shared": ("keys_gone",),
}
_FAULTS: tuple[Literal["left over", "missing", "changed"], ...] = (
    *("left over", "missing", "changed"),
)

_TRIAL_MARK = "shirako-one-time"
_SURVEYS_SHARE = 2
"""Surveys take at most this part of the connections: handlers do not wait for all of them."""
_SURVEY_ATTEMPTS = 2
"""How often a survey connects, at most: it blames nobody, and mending tries again."""


class NodeOptions(SshOptions, AccountOptions):
    """Attributes of `<driver name="ssh">`."""

    admin_key: SecretPath
    """Private key of the admin user of every node."""
    templates: DescriptorPath | None = None
    """Folder of `*.j2` files that mirrors a node's root."""
    shell: str = Field(default="/bin/bash", pattern=r"^/[A-Za-z0-9/._-]+$")
    min_free_mb: int = Field(default=50, ge=0)
    """MiB free on a fit unit's root file system."""
    clean_paths: str = Field(
        default="/tmp /var/tmp /dev/shm /dev/mqueue /run /run/lock /var/spool /var/mail /var/crash",  # noqa: S108
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
        attempts = min(_SURVEY_ATTEMPTS, options.attempts)
        self._look = options.model_copy(update={"attempts": attempts})
        self._surveys = asyncio.Semaphore(max(1, options.connections // _SURVEYS_SHARE))

    async def setup(self, job: UnitJob, log: Log) -> Mapping[str, str]:
        return await self._threads.run(lambda call: self._setup(job, call), log)

    async def teardown(self, job: UnitJob, log: Log) -> tuple[str, ...]:
        return await self._threads.run(lambda call: self._teardown(job, call), log)

    async def probe(self, job: UnitJob, log: Log) -> None:
        await self._threads.run(lambda call: self._probe(job, call), log)

    async def survey(self, jobs: Sequence[UnitJob], log: Log) -> Sequence[Difference]:
        async def look(job: UnitJob) -> list[Difference]:
            async with self._surveys:
                return await self._threads.run(lambda call: self._survey(job, call), log)

        async with asyncio.TaskGroup() as group:
            looks = [group.create_task(look(job)) for job in jobs]
        return [difference for one in looks for difference in one.result()]

    async def mend(self, differences: Sequence[Difference], job: UnitJob | None, log: Log) -> None:
        """Repair a lease's unit, or tear an idle one down; all at once, whatever the differences.

        A guest that works is not disturbed. Raises `HandlerFailed`, and `Unsuitable` for what the
        guest itself made of its account, and for what only a new set-up could change.
        """
        if job is None:
            return
        doing = self._repair if job.lease else self._teardown
        await self._threads.run(lambda call: doing(job, call), log)

    async def close(self) -> None:
        await self._threads.close()

    def _setup(self, job: UnitJob, call: Call) -> Mapping[str, str]:
        admin = self._admin_login(job)
        trial = one_time_key()

        def work(session: Session) -> str:
            user = _user(self._step("set_up", job, session, call, trial).one("user"))
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
        if _layout(job) == "shared":
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
        told = with_session(
            admin, self._options, call, lambda session: self._step("tear_down", job, session, call)
        )
        checks = _CHECKS[_layout(job)]
        for missing in set(checks) - set(told.all("check")):
            raise HandlerFailed(f"the node did not tell that it checked {missing}")
        user = admin.user if _layout(job) == "shared" else self._account(job).name
        try:
            self._try_login(replace(admin, user=user, key=one_time_key()), call)
        except LoginRefused:
            call.log(f"{job.unit} is clean: {', '.join(checks)}")
            return (*checks, "login_refused")
        raise HandlerFailed(f"the node lets {user} in without a key that is known")

    def _probe(self, job: UnitJob, call: Call) -> None:
        told = with_session(
            self._admin_login(job),
            self._options,
            call,
            lambda session: self._step("probe", job, session, call),
        ).one("free_mb")
        if not re.fullmatch(r"[0-9]{1,15}", told):
            raise HandlerFailed(f"{job.unit} has {told[:40]!r} MiB free, which is no number")
        if int(told) < self._options.min_free_mb:
            raise HandlerFailed(
                f"{told} MiB are free on {job.unit}, fewer than {self._options.min_free_mb}"
            )

    def _survey(self, job: UnitJob, call: Call) -> list[Difference]:
        try:
            told = with_session(
                self._admin_login(job),
                self._look,
                call,
                lambda session: self._step("survey", job, session, call),
            )
        except (HandlerFailed, Unsuitable) as error:
            what = f"the node: {error}"
            return [Difference(unit=job.unit, where="node", what=what, fault="missing")]
        return [
            Difference(unit=job.unit, where="node", what=what, fault=fault)
            for fault in _FAULTS
            for what in self._told(fault, job, told)
        ]

    def _told(self, fault: str, job: UnitJob, told: Answers) -> Iterator[str]:
        yield from told.all(fault.replace(" ", "_"))
        if fault == "missing":
            for key in told.all("missing_key"):
                yield f"key {fingerprint(key)} of the lease's"

    def _repair(self, job: UnitJob, call: Call) -> None:
        with_session(
            self._admin_login(job),
            self._options,
            call,
            lambda session: self._step("repair", job, session, call),
        )
        call.log(f"{job.unit} is as the lease needs it")

    def _step(
        self,
        step: _Step,
        job: UnitJob,
        session: Session,
        call: Call,
        trial: paramiko.PKey | None = None,
    ) -> Answers:
        """Run one step. Raises `HandlerFailed` or `Unsuitable` with what the node says of it."""
        account = self._account(job)
        answers = Answers(call.log, hidden="" if trial is None else trial.get_base64())
        values = {"token": answers.token, **self._values(step, job, account, trial)}
        text = program(_layout(job), values, self._rendered(step, job, account, call))
        session.converse(COMMAND, text, answers.take)
        answers.conclude(step)
        return answers

    def _rendered(
        self, step: _Step, job: UnitJob, account: Account, call: Call
    ) -> Mapping[str, str]:
        try:
            return self._files.render(job, account) if step in ("set_up", "repair") else {}
        except Unsuitable as error:
            if step == "set_up":
                raise
            # The lease has been set up: it is the template that is new.
            call.log(f"the rendered files stay as they are: {error}")
            return {}

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
            "trial_mark": _TRIAL_MARK,
        }
        if trial is not None:
            values["trial_blob"] = trial.get_base64()
            # Whatever went wrong later, this key could do no more than this one command.
            key = f"{trial.get_name()} {trial.get_base64()} {_TRIAL_MARK}"
            values["trial_key"] = f'restrict,command="id -un" {key}'
        if _layout(job) == "shared":
            guest_keys = _attribute(job, "guest_keys")
            return values | {"guest_keys": guest_keys, "state": f"{guest_keys}.shirako"}
        return values | {
            "state": "/var/lib/shirako",
            "user": account.name,
            "uid": str(account.uid),
            "home": account.home,
            "shell": self._options.shell,
            "comment": NODE_MARK + re.sub(r"[^A-Za-z0-9._-]", "-", job.lease),
            "comment_mark": NODE_MARK,
            "directory_mark": DIRECTORY_MARK,
            "uid_min": str(self._options.uid_min),
            "uid_end": str(self._options.uid_min + self._options.uid_count),
            "host_name": host_name(job),
            "file_paths": "\n".join(self._files.paths),
            "clean_paths": self._options.clean_paths,
        }

    def _account(self, job: UnitJob) -> Account:
        return account_of(job, self._options)

    def _admin_login(self, job: UnitJob) -> Login:
        port = job.node.get("port", "22")
        if not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 1 << 16:
            raise HandlerFailed(f"the port of {job.unit} is not one: {port!r}")
        return Login(
            host=_attribute(job, "host"),
            port=int(port),
            user=job.node.get("admin_user", "root"),
            host_key=_attribute(job, "host_key"),
            key=self._admin_key,
        )


def _layout(job: UnitJob) -> Layout:
    return "shared" if job.node.get("accounts", "true") == "false" else "account"


def _user(told: str) -> str:
    """A name that may be put into other people's commands; raises `HandlerFailed`."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", told):
        raise HandlerFailed(f"the node tells of a user {told[:80]!r}, which is no name")
    return told


def _attribute(job: UnitJob, name: str) -> str:
    try:
        return job.node[name]
    except KeyError:
        raise HandlerFailed(f"the unit {job.unit} has no attribute {name}") from None
