"""Whatever a header says: a token is refused as untrusted, and nothing else goes wrong."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shirako import trust
from shirako.lineage import HEADER
from shirako.trust import Untrusted
from tests.core.cast import key_of

KEY = key_of("site")
MEMBERS = ("alg", "b64", "crit", "cty", "jku", "jwk", "kid", "typ", "x5c", "x5t", "x5u", HEADER)

plain = st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3)
values = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.text(max_size=3) | st.sampled_from(MEMBERS), inner, max_size=2)
    ),
    max_leaves=4,
)


def with_header(stated: dict[str, Any]) -> str:
    _, payload, signature = KEY.sign("test+jws", b"{}").split(".")
    encoded = base64.urlsafe_b64encode(json.dumps(stated).encode()).rstrip(b"=").decode()
    return f"{encoded}.{payload}.{signature}"


@given(st.dictionaries(st.sampled_from(MEMBERS), values, min_size=1, max_size=3))
def test_a_strange_header_is_untrusted(strange: dict[str, Any]) -> None:
    usual = {"alg": "Ed25519", "typ": "test+jws", "kid": KEY.public.kid}
    for stated in (strange, {**usual, **strange}):
        # spelled otherwise than it was signed, it can not hold
        with pytest.raises(Untrusted):
            KEY.public.verify(with_header(stated), "test+jws")


def test_a_crit_that_is_no_list_of_names() -> None:
    strange: tuple[Any, ...] = (None, True, 5, "crit", [5], [[]], {})
    for crit in strange:
        token = with_header({"alg": "Ed25519", "typ": "test+jws", "crit": crit})
        with pytest.raises(Untrusted, match="extension of JWS"):
            KEY.public.verify(token, "test+jws")


def test_the_usual_header_is_taken() -> None:
    assert trust.header(KEY.sign("test+jws", b"{}"))["kid"] == KEY.public.kid
    assert KEY.public.verify(KEY.sign("test+jws", b"{}"), "test+jws") == b"{}"
