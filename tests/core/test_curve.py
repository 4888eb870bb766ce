"""Keys: 32 bytes are a key only if somebody, and one alone, can sign for them."""

from __future__ import annotations

import os

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from shirako.curve import key_fault

P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P
ORDER = 2**252 + 27742317777372353535851937790883648493
"""Of the base point; the curve has eight times as many points."""
Point = tuple[int, int]
NEUTRAL: Point = (0, 1)


def root_of(square: int) -> int | None:
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * pow(2, (P - 1) // 4, P) % P
    return x if x * x % P == square else None


def point_at(y: int) -> Point | None:
    """A point of the curve with this y, by solving for x."""
    x = root_of((y * y - 1) * pow(D * y * y + 1, -1, P) % P)
    return None if x is None else (x, y)


def added(one: Point, other: Point) -> Point:
    (x1, y1), (x2, y2) = one, other
    k = D * x1 * x2 * y1 * y2
    return (x1 * y2 + x2 * y1) * pow(1 + k, -1, P) % P, (y1 * y2 + x1 * x2) * pow(1 - k, -1, P) % P


def times(count: int, point: Point) -> Point:
    found = NEUTRAL
    while count:
        if count & 1:
            found = added(found, point)
        count, point = count >> 1, added(point, point)
    return found


def small_orders() -> set[int]:
    """The y of all points whose order divides 8: what is left of others times the great order."""
    points = [point for y in range(2, 60) if (point := point_at(y)) is not None]
    return {times(ORDER, point)[1] for point in points}


def encoded(y: int, sign: int = 0) -> bytes:
    return (y | sign << 255).to_bytes(32, "little")


def test_keys_that_were_made_are_taken() -> None:
    for _ in range(20):
        assert key_fault(Ed25519PrivateKey.generate().public_key().public_bytes_raw()) == ""


def test_every_point_of_small_order_is_refused() -> None:
    found = small_orders()
    assert len(found) == 5, "eight points, three pairs of which share their y"
    for y in found:
        assert times(8, (point_at(y) or NEUTRAL)) == NEUTRAL
        for sign in (0, 1):
            assert "small order" in key_fault(encoded(y, sign))


def test_what_small_order_would_mean() -> None:
    """OpenSSL takes the neutral point for a key, and signatures of nobody with it."""
    anybody = Ed25519PublicKey.from_public_bytes(encoded(1))
    anybody.verify(encoded(1) + bytes(32), b"whatever anybody says")


def test_what_is_on_the_curve_is_what_has_an_x() -> None:
    for y in range(2, 120):
        assert (key_fault(encoded(y)) == "") == (point_at(y) is not None)


@pytest.mark.parametrize("y", [P, P + 1, P + 3, 2**255 - 1])
def test_second_spellings_are_refused(y: int) -> None:
    assert "second spelling" in key_fault(encoded(y))


@pytest.mark.parametrize("length", [0, 31, 33])
def test_other_lengths_are_refused(length: int) -> None:
    assert f"{length} bytes" in key_fault(os.urandom(length))
