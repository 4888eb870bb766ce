"""Property lists: string keys and values, opaque to the core but never unlimited.

Four lists, named for who tells whom: *request* (guest to broker), *resource* (broker or site to
guest), *configuration* (guest to authority), *unit* (authority to guest).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

KEY = re.compile(r"[a-z][a-z0-9_.-]{0,63}\Z")
VALUE_CHARACTERS_MAX = 4096
PROPERTIES_MAX = 64
UNPRINTABLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\u0080-\u009f\u2028\u2029]")
SSH_KEY = re.compile(
    r"(?:ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(?:256|384|521)|sk-ssh-ed25519@openssh\.com"
    r"|sk-ecdsa-sha2-nistp256@openssh\.com) [A-Za-z0-9+/]{40,4000}={0,3}(?: [ -~]{0,200})?\Z"
)
SSH_KEYS_MAX = 16


NAME = re.compile(r"[a-z][a-z0-9.-]{0,63}\Z")


def name_fault(what: str, name: str) -> str | None:
    """What is wrong with the name of a slice or type, or None."""
    if NAME.match(name):
        return None
    return f"{what}: a lower-case letter, then at most 63 lower-case letters, digits, '.' or '-'"


def fault(properties: Mapping[str, str]) -> str | None:
    """What is wrong with a property list, as `key: reason`, or None when nothing is.

    Control characters are refused, newlines first of all: values end up in files on nodes, where
    a second line would be a second statement. Shell metacharacters are no fault: they are quoted.
    """
    if len(properties) > PROPERTIES_MAX:
        return f"properties: {len(properties)} of them, at most {PROPERTIES_MAX} are taken"
    for key, value in properties.items():
        if not KEY.match(key):
            return f"{key[:40]!r}: a key is a lower-case letter, then letters, digits, '_.-'"
        if len(value) > VALUE_CHARACTERS_MAX:
            return f"{key}: {len(value)} characters, at most {VALUE_CHARACTERS_MAX} are taken"
        if UNPRINTABLE.search(value):
            return f"{key}: control characters and line breaks are not taken"
    return None


def ssh_key_fault(keys: tuple[str, ...]) -> str | None:
    """What is wrong with a list of SSH public keys, or None."""
    if len(keys) > SSH_KEYS_MAX:
        return f"{len(keys)} keys, at most {SSH_KEYS_MAX} are taken"
    for number, key in enumerate(keys, 1):
        if not SSH_KEY.match(key):
            return f"key {number} is not one line of 'type base64 [comment]' of a known type"
    return None
