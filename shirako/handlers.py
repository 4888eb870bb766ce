"""What a driver promises, and what it is given: the seam between leases and machines.

A *handler* configures one unit. The authority's handlers are `setup`, `teardown` and `probe`;
the guest's are `join` and `leave`. Each is idempotent: it may be run again after a crash, with the
same job, and must then leave the unit as one run would have. Beside them, `survey` and `mend` hold
what is on the units, and written about them elsewhere, against what the ledger says.

A handler ends in one of four ways: it returns; it raises `HandlerFailed`, which blames the unit
(the authority tries another one and quarantines this); it raises `Unsuitable`, which blames what
the lease asks for (the lease is refused, the unit is not); or it raises `Unavailable`, which blames
nobody (a directory that is down), and is run again after a pause.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo

Log = Callable[[str], None]
"""Adds one line to the lease's story. Lines are cut at 500 characters; never pass a secret."""


class HandlerFailed(Exception):
    """This unit could not be configured; the message says what failed, for a person."""


class Unsuitable(Exception):
    """What the lease asks for can be set up on no unit; the message says what, for a person."""


class Unavailable(Exception):
    """Something that the handler needs, but that is not the unit, does not answer now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitJob:
    """Everything that a handler may know about the unit and the lease it works for."""

    unit: str
    """The unit's name, unique at its authority: letters, digits, `-` and `.`."""
    epoch: int
    """Number of this assignment of the unit; grows, never repeats (rule 11)."""
    lease: str
    slice: str
    type: str
    end: int
    """End of the lease's term, in ticks (seconds since the Unix epoch)."""
    node: Mapping[str, str]
    """The unit's own attributes, from the site's descriptor: `host`, `port`, `host_key`, ..."""
    properties: Mapping[str, str]
    """The guest's configuration properties, already checked for length and characters."""
    keys: tuple[str, ...]
    """The guest's SSH public keys, each `type base64 [comment]`, already checked."""
    outputs: Mapping[str, str]
    """Unit properties that earlier handlers of this assignment returned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing that is not as the ledger says."""

    unit: str
    """The unit's name; empty for what belongs to no unit, such as a slice's entry without hosts."""
    where: str
    """`node` or `directory`, or what else a driver keeps."""
    what: str
    """For a person: `account s-blue`, `key SHA256:...`, `process 4711 of s-blue`, a DN."""
    fault: Literal["left over", "missing", "changed"]


class Driver(Protocol):
    """Authority side: prepares a unit for a lease, and takes the lease off it again."""

    Options: ClassVar[type[Options]]

    async def setup(self, job: UnitJob, log: Log) -> Mapping[str, str]:
        """Prepare the unit and check that it works; returns unit properties for the guest."""
        ...

    async def teardown(self, job: UnitJob, log: Log) -> tuple[str, ...]:
        """Remove all that is the guest's and verify it; returns the names of the checks made.

        Must do its work also when `setup` never ran or stopped half-way.
        """
        ...

    async def probe(self, job: UnitJob, log: Log) -> None:
        """Check that the unit is fit for use; raises `HandlerFailed` when it is not.

        With a lease in the job: that the unit still works for it; otherwise that it is empty.
        """
        ...

    async def survey(self, jobs: Sequence[UnitJob], log: Log) -> Sequence[Difference]:
        """Compare what is there with what should be; changes nothing.

        `jobs` are all units of the pool that nothing is being done to. A job without a lease says
        that the unit is idle: nothing of any guest should be there, or be written about it. A unit
        that can not be looked at is a difference itself. Raises `Unavailable`.
        """
        ...

    async def mend(self, differences: Sequence[Difference], job: UnitJob | None, log: Log) -> None:
        """Make things as the job says: all of these differences are about its unit.

        With a lease in the job, what is missing is made again; otherwise all that is any guest's
        is taken away, and this is checked. The job is None for differences that have no unit.
        What has come right meanwhile is left alone. Raises `HandlerFailed`, `Unavailable`, or
        `Unsuitable` for what a guest has made of its own, which is no fault of the unit.
        """
        ...

    async def close(self) -> None:
        """Give back connections and threads; the actor is stopping."""
        ...


class GuestDriver(Protocol):
    """Guest side: takes a leased unit into the guest's environment, and out of it again."""

    Options: ClassVar[type[Options]]

    async def join(self, job: UnitJob, log: Log) -> Mapping[str, str]:
        """Take the unit in; `job.outputs` are the unit properties that the authority sent."""
        ...

    async def leave(self, job: UnitJob, log: Log) -> None:
        """Take the unit out, before the term ends."""
        ...

    async def close(self) -> None:
        """Give back connections and threads; the actor is stopping."""
        ...


class Options(BaseModel):
    """Base of a driver's options: attributes of its `<driver>` element, checked, none unknown.

    A driver class names its own as `Options` and is constructed with one instance of it.
    Attribute `admin-key` of the element arrives as field `admin_key`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)


def _beside_descriptor(path: Path, info: ValidationInfo) -> Path:
    context: Any = info.context or {}
    return Path(context.get("base", ".")) / path


def _for_us_alone(path: Path) -> Path:
    if path.exists() and path.stat().st_mode & 0o077:
        raise ValueError(f"{path} can be read by others: chmod 600 {path}")
    return path


DescriptorPath = Annotated[Path, AfterValidator(_beside_descriptor)]
"""A path option; a relative one is taken from the folder of `actors.xml`."""
SecretPath = Annotated[DescriptorPath, AfterValidator(_for_us_alone)]
"""The path of a file with a secret in it, which is refused when others may read it."""
