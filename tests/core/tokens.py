"""Tokens in their parts, and rightly signed ones that no API would write."""

from __future__ import annotations

import base64
import json
from typing import Any

from shirako.trust import PrivateKey
from tests.core.cast import sign_raw


def text_of(data: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def bytes_of(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def header_of(token: str) -> dict[str, Any]:
    stated: dict[str, Any] = json.loads(bytes_of(token.split(".")[0]))
    return stated


def content_of(token: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(bytes_of(token.split(".")[1]))
    return content


def compact(
    key: PrivateKey, header: dict[str, Any] | bytes, payload: dict[str, Any] | bytes
) -> str:
    """Any header and payload, with a right signature of `key`."""
    parts = [
        text_of(part if isinstance(part, bytes) else json.dumps(part).encode())
        for part in (header, payload)
    ]
    return signed(key, ".".join(parts))


def signed(key: PrivateKey, signing_input: str) -> str:
    return f"{signing_input}.{text_of(sign_raw(key, signing_input.encode()))}"
