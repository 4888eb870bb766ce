"""Where mirrors are, as a descriptor says it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorPlace:
    """Where mirrors are, and who may write there; nothing is read or asked yet."""

    url: str
    base: str
    """DN of the entry below which each actor has its mirror; it has to be there."""
    user: str
    password_file: Path
    start_tls: bool = False
    ca: Path | None = None
    """The authority that the server's certificate is from; None: the system's."""

    def __str__(self) -> str:
        return f"{self.url} {self.base}"
