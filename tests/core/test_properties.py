"""Property lists and SSH keys: what a guest may write is limited before it reaches any node."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shirako.core.properties import (
    PROPERTIES_MAX,
    SSH_KEYS_MAX,
    VALUE_CHARACTERS_MAX,
    fault,
    ssh_key_fault,
)

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFN0c2FtcGxla2V5c2FtcGxla2V5c2FtcGxla2V5"


@pytest.mark.parametrize(
    "properties",
    [
        {},
        {"image": "Debian Linux"},
        {"host.prefix": "cats", "host.visible": "true", "a_b-c.9": ""},
        {"note": "tabs\tand $(rm -rf /); `x` 'y' \"z\" are quoted, not refused"},
        {"name": "Grüße, 世界 🦊"},
        {"a" * 64: "x" * VALUE_CHARACTERS_MAX},
        {f"k{n}": "v" for n in range(PROPERTIES_MAX)},
    ],
)
def test_what_is_taken(properties: dict[str, str]) -> None:
    assert fault(properties) is None


@pytest.mark.parametrize(
    "key", ["", "A", "Image", "1st", ".x", "a b", "a/b", "a\n", "a" * 65, "ä", "a=b", "a\x00"]
)
def test_a_key_that_is_none(key: str) -> None:
    found = fault({key: "v"})
    assert found is not None
    assert "a key is a lower-case letter" in found


@pytest.mark.parametrize(
    "character", ["\n", "\r", "\x00", "\x1b", "\x7f", "\x85", "\x9b", "\u2028", "\u2029", "\x0b"]
)
def test_a_value_is_one_line_without_controls(character: str) -> None:
    """CLEAN: a second line in a file on a node would be a second statement."""
    assert fault({"image": f"x{character}y"}) is not None
    assert fault({"image": f"x{character}"}) is not None


def test_limits() -> None:
    assert "at most 64 are taken" in (fault({f"k{n}": "" for n in range(65)}) or "")
    assert "characters, at most" in (fault({"k": "x" * (VALUE_CHARACTERS_MAX + 1)}) or "")


@given(st.dictionaries(st.text(max_size=8), st.text(max_size=20), max_size=4))
def test_no_line_break_ever_passes(properties: dict[str, str]) -> None:
    if fault(properties) is None:
        for text in [*properties, *properties.values()]:
            assert len(f"<{text}>".splitlines()) == 1
            assert text.isprintable() or "\t" in text or not text.isascii()


@pytest.mark.parametrize(
    "key",
    [
        KEY,
        f"{KEY} me@home",
        f"{KEY} a comment with spaces",
        "ssh-rsa " + "A" * 372 + "==",
        "ecdsa-sha2-nistp256 " + "B" * 140 + "=",
        "sk-ssh-ed25519@openssh.com " + "C" * 100,
    ],
)
def test_keys_that_are_taken(key: str) -> None:
    assert ssh_key_fault((KEY, key)) is None


@pytest.mark.parametrize(
    "key",
    [
        "",
        "ssh-ed25519",
        "ssh-ed25519 short",
        f"{KEY}\n",
        f"{KEY}\nssh-ed25519 AAAA",
        f"{KEY} comment\ncommand=x",
        f"{KEY} ümlaut",
        f'command="rm -rf /" {KEY}',
        f"restrict,pty {KEY}",
        f" {KEY}",
        f"ssh-dss {'A' * 60}",
        f"ssh-ed25519  {'A' * 60}",
        "ssh-rsa " + "A" * 5000,
        f"{KEY} {'c' * 201}",
        f"{KEY}\x00",
    ],
)
def test_keys_that_are_not(key: str) -> None:
    """No options, no second line: each would be a statement in `authorized_keys`."""
    assert "key 2 is not one line" in (ssh_key_fault((KEY, key)) or "")


def test_keys_have_a_number() -> None:
    assert ssh_key_fault((KEY,) * SSH_KEYS_MAX) is None
    assert "17 keys" in (ssh_key_fault((KEY,) * (SSH_KEYS_MAX + 1)) or "")
