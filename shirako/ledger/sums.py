"""What a ledger of any kind writes beside a record, and calls a lease in its story."""

from __future__ import annotations

import hashlib


def record_sum(kind: str, key: str, body: bytes) -> int:
    """The checksum of one record: 32 bits of SHA-256, which neighbours' errors do not cancel."""
    digest = hashlib.sha256(f"{kind}\0{key}\0".encode() + body).digest()
    return int.from_bytes(digest[:4])


def story_key(lease: str) -> int:
    """What a lease is called in the story: 63 bits of SHA-256. Who reads looks at the name, too."""
    return int.from_bytes(hashlib.sha256(lease.encode()).digest()[:8]) >> 1
