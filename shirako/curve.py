"""Which 32 bytes are an Ed25519 public key that proves something (RFC 8032, RFC 8725 section 3.4).

OpenSSL takes any 32 bytes for a key. Three kinds of them are refused here, because a statement
that names such a key says something else to its readers than it seems to:

- no point of the curve: nobody can hold the key;
- a point of small order: anybody can sign for it, without a secret;
- a second spelling of a point: one holder would go under two names.
"""

from __future__ import annotations

from functools import lru_cache

KEY_BYTES = 32
KEYS_REMEMBERED_MAX = 4096

_P = 2**255 - 19
_D = -121665 * pow(121666, -1, _P) % _P
_EIGHTH = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
_SMALL_ORDER = frozenset((0, 1, _P - 1, _EIGHTH, _P - _EIGHTH))
"""The y of all eight points whose order divides the cofactor."""


@lru_cache(maxsize=KEYS_REMEMBERED_MAX)
def key_fault(encoded: bytes) -> str:
    """Why these bytes are no key that proves something; empty when they are one."""
    if len(encoded) != KEY_BYTES:
        return f"it has {len(encoded)} bytes, not {KEY_BYTES}"
    y = int.from_bytes(encoded, "little") & (2**255 - 1)
    if y >= _P:
        return "it is a second spelling of another key"
    if y in _SMALL_ORDER:
        return "it is a point of small order, for which anybody can sign"
    squared = y * y % _P
    # x^2 = (y^2 - 1) / (d y^2 + 1) has a solution when this product is a square (Euler)
    product = (squared - 1) * (_D * squared + 1) % _P
    if pow(product, (_P - 1) // 2, _P) != 1:
        return "it is no point of the curve"
    return ""
