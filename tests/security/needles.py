"""Secrets in every form in which they could lie about."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import quote, quote_plus

AROUND = 200
LEAST_BYTES = 8
"""Shorter ones would be found by chance."""


def forms(secret: bytes) -> Iterator[bytes]:
    """The secret as it is, and as it is written in hex, base64 of any alignment, URLs and JSON."""
    assert len(secret) >= LEAST_BYTES, secret
    yield secret
    yield secret.hex().encode()
    yield secret.hex().upper().encode()
    for alignment in range(3):
        # What stands before it in the same base64 shifts it; characters at both ends that depend
        # on the neighbours are left out.
        encoded = base64.b64encode(b"\0" * alignment + secret)
        clean = encoded[(0, 2, 3)[alignment] : len(encoded.rstrip(b"=")) - 1]
        yield clean
        yield clean.translate(bytes.maketrans(b"+/", b"-_"))
    try:
        text = secret.decode()
    except UnicodeDecodeError:
        return
    yield quote(text, safe="").encode()
    yield quote_plus(text).encode()
    yield json.dumps(text)[1:-1].encode()


def of_file(file: Path) -> list[bytes]:
    """What of a file of keys or passwords is secret: the lines of PEM, JWK's `d`, other lines."""
    text = file.read_text()
    if text.startswith("{"):
        half = json.loads(text)["d"]
        return [half.encode(), base64.urlsafe_b64decode(half + "==")]
    lines = [line.strip() for line in text.splitlines()]
    if "PRIVATE KEY" not in text:
        return [line.encode() for line in lines if line]
    body = [line for line in lines if not line.startswith("-----") and line]
    # the first line of each key is its kind, and the last one may be short
    secret = [line for line in body if len(line) >= 32][-2:]
    return [line.encode() for line in secret]


class Needles:
    """Secrets by name, each in all its forms."""

    def __init__(self, secrets: Mapping[str, Iterable[bytes]]) -> None:
        self._forms = {
            name: tuple({form for secret in several for form in forms(secret)})
            for name, several in secrets.items()
        }

    def within(self, hay: bytes) -> dict[str, bytes]:
        """The secrets that are in it, each with what stands around it, once."""
        found = {}
        for name, several in self._forms.items():
            for form in several:
                at = hay.find(form)
                if at >= 0:
                    found[name] = hay[max(at - AROUND, 0) : at + len(form) + AROUND]
        return found
