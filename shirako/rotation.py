"""Replaces an actor's key file by one with the next key, and is never without a usable one.

The key file holds the key and the lineage that leads to it, so one rename switches both:

1. the key in use is copied to `NAME.retired-N.jwk`,
2. the next key is written to `.NAME.jwk.new`,
3. that is renamed to `NAME.jwk`: from here on the next key is the actor's,
4. `NAME.pub.jwk`, what new peers pin, is replaced by one with the longer lineage.

Each file is on the disk before the next step begins. What is stopped before step 3 has changed
nothing, and is begun again from the start: the key made up to then was never used. What is stopped
after it is finished by the next call, which makes no further key.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from shirako.core.lineage import SUCCESSIONS_MAX
from shirako.trust import PrivateKey, PublicKey, Untrusted, lineage_in, public_path, read_pin

RECENT_TICKS = 3600
"""A key that is younger is replaced on demand alone: a command that is repeated changes nothing."""

Done = Literal["rotated", "finished", "kept"]


class RotationRefused(Exception):
    """The key can not be replaced; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """What was done to a key file, or would be."""

    done: Done
    identity: str
    """Thumbprint of the first key: who the actor is and stays."""
    key: str
    """Thumbprint of the key in use; empty in a dry run that would make one."""
    number: int
    """Of the key in use: 0 for the first one."""
    since: int
    until: int
    """The last tick at which unseen statements of the keys before are believed."""
    file: Path
    public: Path
    retired: Path
    """Where the key before is."""


def rotate(
    path: Path, now: int, grace: int, *, again: bool = False, dry_run: bool = False
) -> Rotation:
    """Replace the key in the file `path`, or finish what was begun.

    `grace`: ticks for which statements by the keys before are still believed when they are seen
    for the first time. `again`: also when the key is young. Raises `RotationRefused`, `Untrusted`
    or OSError.
    """
    path = path.resolve()
    with _alone(path.parent):
        key = PrivateKey.read(path)
        if _public_lags(path, key):
            if not dry_run:
                _put(public_path(path), key.public_file(), path, 0o644)
            return _told("finished", path, key)
        if key.lineage:
            last = lineage_in(key.lineage).since
            if now < last + RECENT_TICKS and not again:
                return _told("kept", path, key)
            now = max(now, last)  # also by a clock that was set back in between
        number = len(key.lineage) + 1
        if number > SUCCESSIONS_MAX:
            raise RotationRefused(
                f"{path}: the key was replaced {SUCCESSIONS_MAX} times, and that is as often as "
                "can be: end the actor's leases and give it a new key file, which peers have to pin"
            )
        if dry_run:
            return Rotation(
                "rotated",
                key.public.kid,
                "",
                number,
                now,
                now + grace,
                path,
                public_path(path),
                _retired(path, number - 1),
            )
        _keep(path, number - 1)
        fresh = key.succeeded(now, now + grace)
        _put(path, fresh.private_file(), path, 0o600)
        _put(public_path(path), fresh.public_file(), path, 0o644)
        return _told("rotated", path, fresh)


def _told(done: Done, path: Path, key: PrivateKey) -> Rotation:
    last = lineage_in(key.lineage).successions[-1]
    return Rotation(
        done,
        key.public.kid,
        PublicKey(key.x).kid,
        last.number,
        last.since,
        last.until,
        path,
        public_path(path),
        _retired(path, last.number - 1),
    )


def _public_lags(path: Path, key: PrivateKey) -> bool:
    """Whether the public file does not tell of the key in use; raises `RotationRefused`."""
    public = public_path(path)
    try:
        pin = read_pin(public)
    except FileNotFoundError:
        return bool(key.lineage)
    except Untrusted as error:
        raise RotationRefused(f"{error}; remove it: it is made again") from error
    if pin.key.kid != key.public.kid:
        raise RotationRefused(f"{public} is not the public half of {path}: look which one is right")
    if pin.lineage == key.lineage:
        return False
    if key.lineage[: len(pin.lineage)] != pin.lineage:
        raise RotationRefused(
            f"{public} knows of a later key than {path}, which is perhaps an old copy: put the "
            f"current key file back; {path.name} is retired"
        )
    return True


def _retired(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}.retired-{number}{path.suffix}")


def _keep(path: Path, number: int) -> None:
    """Copy the key file beside itself; a copy that is there already has to be the same."""
    content, copy = path.read_bytes(), _retired(path, number)
    try:
        if copy.read_bytes() != content:
            raise RotationRefused(f"{copy} is there, and holds another key: move it away")
    except FileNotFoundError:
        _put(copy, content, path, 0o600)


def _put(path: Path, content: bytes, like: Path, mode: int) -> None:
    """Put a file in place, wholly or not at all; it belongs to whom the file `like` belongs to."""
    fresh = path.with_name(f".{path.name}.new")
    owner = like.stat()
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        if os.geteuid() == 0:
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    fresh.replace(path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One rotation in a folder at a time; the kernel ends it when the process dies."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
