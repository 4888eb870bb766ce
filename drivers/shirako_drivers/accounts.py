"""Names and numbers that follow from a job: the guest's account and the unit's host name.

The node driver and the directory driver both ask here, so that a node and the directory agree.

Every function is total: whatever a guest wrote, a valid name comes out. A name that could be
refused would let a guest's typing error blame, and quarantine, one unit after the other.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass

from pydantic import Field

from shirako.handlers import Options, UnitJob

_LABEL = 63
"""Longest part of a host name (RFC 1123), and one less than Linux takes for the whole."""

NODE_MARK = "Shirako guest of lease "
"""How the comment field of an account of ours begins on a node."""
DIRECTORY_MARK = "Shirako slice"
"""The comment of an account of ours in the directory, and the description of a slice there."""


class AccountOptions(Options):
    """The range that uids are taken from; give every driver of a site the same one."""

    uid_min: int = Field(default=20_000, ge=1_000, le=2**31)
    uid_count: int = Field(default=40_000, ge=1, le=2**31)
    """Two slices may get one uid by chance. A node holds one slice at a time, so that this matters
    only to a site whose nodes share storage: such a site wants a larger range."""


@dataclass(frozen=True, slots=True)
class Account:
    """A POSIX account; its group has the same name and number."""

    name: str
    uid: int

    @property
    def home(self) -> str:
        return f"/home/{self.name}"


def guest_of(job: UnitJob) -> str:
    """The thumbprint of the guest's key, or "" when the authority passes none."""
    return job.properties.get("guest", "")


def account_of(job: UnitJob, options: AccountOptions) -> Account:
    """The account of the job's slice: the same at each of its units, and no other slice's.

    `s-` keeps it off the names of system accounts. Property `user` asks for the readable part of
    the name; unless the slice's name alone decides the account, a digest makes it the slice's own.
    """
    guest, wish = guest_of(job), job.properties.get("user", "")
    digest = hashlib.sha256(f"{guest}\0{job.slice}".encode()).digest()
    uid = options.uid_min + int.from_bytes(digest[-8:]) % options.uid_count
    readable = _plain(wish or job.slice)
    if readable == job.slice and len(readable) <= 28 and not guest:
        return Account(f"s-{readable}", uid)
    own = base64.b32encode(digest)[:10].decode().lower()
    return Account(f"s-{readable[:17]}-{own}", uid)


def host_name(job: UnitJob) -> str:
    """What the unit calls itself: its name at the site, after the guest's `host.prefix` if any."""
    prefix = re.sub(r"[^a-z0-9-]+", "-", job.properties.get("host.prefix", "").lower()).strip("-")
    name = f"{prefix[:30]}-{job.unit}" if prefix else job.unit
    return name[:_LABEL].rstrip("-.")


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-") or "x"
