"""DURABLE: a key is replaced wholly or not at all, and an actor is never without one that it can
use, whenever the command is killed. Done again it goes on where it ended, and makes no second key.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shirako.core.lineage import SUCCESSIONS_MAX
from shirako.rotation import RECENT_TICKS, Rotation, RotationRefused, rotate
from shirako.trust import PrivateKey, PublicKey, Untrusted, public_path, read_pin
from tests.rotation.lines import NOW

GRACE = 86_400


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An actor's key file, with the public half beside it."""
    path = tmp_path / "keys" / "site.jwk"
    PrivateKey.generate().write(path)
    return path


def usable(file: Path, identity: str) -> PrivateKey:
    """The key in the file: the same actor's, and what it signs is good for who pinned the first."""
    key = PrivateKey.read(file)
    assert key.public.kid == identity
    assert read_pin(public_path(file)).key.verify(key.sign("t", b"{}"), "t") == b"{}"
    assert file.stat().st_mode & 0o777 == 0o600
    return key


def test_a_key_is_replaced(file: Path) -> None:
    old = PrivateKey.read(file)
    done = rotate(file, NOW, GRACE)
    new = usable(file, old.public.kid)
    assert done == Rotation(
        "rotated",
        old.public.kid,
        PublicKey(new.x).kid,
        1,
        NOW,
        NOW + GRACE,
        file,
        public_path(file),
        file.with_name("site.retired-0.jwk"),
    )
    assert new.x != old.x
    assert PrivateKey.read(done.retired).x == old.x
    assert done.retired.stat().st_mode & 0o777 == 0o600
    assert read_pin(done.public).lineage == new.lineage
    assert public_path(file).stat().st_mode & 0o777 == 0o644
    assert {one.name for one in file.parent.iterdir()} == {
        "site.jwk",
        "site.pub.jwk",
        "site.retired-0.jwk",
    }


def test_done_twice_is_done_once(file: Path) -> None:
    done = rotate(file, NOW, GRACE)
    again = rotate(file, NOW + RECENT_TICKS - 1, GRACE)
    assert (again.done, again.key, again.number) == ("kept", done.key, 1)
    assert rotate(file, NOW + RECENT_TICKS, GRACE).number == 2
    assert rotate(file, NOW, GRACE, again=True).number == 3  # by a clock that was set back


def test_as_often_as_can_be(file: Path) -> None:
    for number in range(1, SUCCESSIONS_MAX + 1):
        assert rotate(file, NOW, 0, again=True).number == number
    before = file.read_bytes()
    with pytest.raises(RotationRefused, match="replaced 8 times"):
        rotate(file, NOW, 0, again=True)
    assert file.read_bytes() == before


@pytest.mark.parametrize("times", [0, 1])
def test_a_dry_run_changes_nothing(file: Path, times: int) -> None:
    for _ in range(times):
        rotate(file, NOW, GRACE, again=True)
    before = {one.name: one.read_bytes() for one in file.parent.iterdir()}
    told = rotate(file, NOW, GRACE, again=True, dry_run=True)
    assert (told.done, told.key, told.number) == ("rotated", "", times + 1)
    assert {one.name: one.read_bytes() for one in file.parent.iterdir()} == before


STEPS = ("open", "fsync", "fchmod", "replace")


def killed(act: Callable[[], object], after: int) -> bool:
    """Run `act` in a process of its own, which dies before that step; False: it came to its end."""
    child = os.fork()
    if child == 0:
        left = iter(range(after))

        def deadly(real: Callable[..., Any]) -> Callable[..., Any]:
            def step(*given: Any, **named: Any) -> Any:
                if next(left, None) is None:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*given, **named)

            return step

        for name in STEPS:
            setattr(os, name, deadly(getattr(os, name)))
        try:
            act()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def test_killed_at_any_step(tmp_path: Path) -> None:
    """`kill -9` before each step in turn: a usable key is there, and the same command again makes
    exactly one out of whatever was left."""
    seen, step, dies = set[str](), 0, True
    while dies:
        file = tmp_path / str(step) / "site.jwk"
        PrivateKey.generate().write(file)
        old = PrivateKey.read(file)
        dies = killed(lambda file=file: rotate(file, NOW, GRACE), step)  # type: ignore[misc]
        left = usable(file, old.public.kid)
        done = rotate(file, NOW + 1, GRACE)
        new = usable(file, old.public.kid)
        seen.add(done.done)
        assert (done.number, new.x != old.x) == (1, True)
        assert left.x in (old.x, new.x)
        assert PrivateKey.read(done.retired).x == old.x
        assert read_pin(public_path(file)).lineage == new.lineage
        assert not [one for one in file.parent.iterdir() if one.name.endswith(".new")]
        step += 1
    assert seen == {"rotated", "finished", "kept"}
    assert step > 12


def test_killed_twice(file: Path) -> None:
    """Also what goes on where a killed one ended may be killed."""
    identity = PrivateKey.read(file).public.kid
    for step in (5, 9, 13, 3):
        killed(lambda: rotate(file, NOW, GRACE), step)
        usable(file, identity)
    assert rotate(file, NOW, GRACE).number == 1


# What is refused ---------------------------------------------------------------------------------


def test_an_old_copy_of_the_key_is_not_replaced(file: Path) -> None:
    """A key file out of a backup is retired: a second successor of it would be a fork."""
    old = file.read_bytes()
    rotate(file, NOW, GRACE)
    file.write_bytes(old)
    with pytest.raises(RotationRefused, match="perhaps an old copy: put the current key file back"):
        rotate(file, NOW, GRACE, again=True)
    assert file.read_bytes() == old


def test_the_public_file_of_somebody_else(file: Path) -> None:
    public_path(file).write_bytes(PrivateKey.generate().public_file())
    with pytest.raises(RotationRefused, match="is not the public half"):
        rotate(file, NOW, GRACE)


def test_a_retired_key_is_not_overwritten(file: Path) -> None:
    other = file.with_name("site.retired-0.jwk")
    other.write_bytes(PrivateKey.generate().private_file())
    before = other.read_bytes()
    with pytest.raises(RotationRefused, match="holds another key: move it away"):
        rotate(file, NOW, GRACE)
    assert other.read_bytes() == before


def test_a_public_file_that_is_gone_is_made_again(file: Path) -> None:
    rotate(file, NOW, GRACE)
    public_path(file).unlink()
    assert rotate(file, NOW, GRACE).done == "finished"
    assert read_pin(public_path(file)).lineage == PrivateKey.read(file).lineage


@pytest.mark.parametrize("wrong", ["other", "cut", "text"])
def test_a_key_file_whose_lineage_is_wrong(file: Path, wrong: str) -> None:
    rotate(file, NOW, GRACE)
    rotate(file, NOW, GRACE, again=True)
    told = json.loads(file.read_bytes())
    told["lineage"] = {
        "other": list(PrivateKey.generate().succeeded(NOW, NOW).lineage),
        "cut": told["lineage"][1:],
        "text": "x",
    }[wrong]
    file.write_text(json.dumps(told))
    with pytest.raises(Untrusted, match=r"site\.jwk: the lineage"):
        PrivateKey.read(file)
