"""How actors reach each other: signed envelopes, over HTTP or within one process."""

from __future__ import annotations

from typing import Protocol


class Unreachable(Exception):
    """The peer could not be reached or did not take the envelope; it will be tried again."""


class Transport(Protocol):
    """Carries one envelope to an address and brings back the peer's signed acknowledgement."""

    async def post(self, url: str, envelope: bytes) -> bytes:
        """Raises `Unreachable`, also when the peer refuses the envelope as such."""
        ...

    async def close(self) -> None: ...
