"""TLS that somebody in the middle would like to be older, or not there at all."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest

from shirako.certificates import client_context
from tests.security.conftest import Deployment
from tests.security.lines import Line


def old(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")


def weak(context: ssl.SSLContext) -> None:
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("NULL:aNULL:eNULL:RC4:3DES:@SECLEVEL=0")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")
@pytest.mark.parametrize("change", [old, weak])
async def test_older_and_weaker_tls_is_refused(
    one_way: Deployment, change: Callable[[ssl.SSLContext], None]
) -> None:
    context = client_context(one_way.certificates / "ca.pem", None, None)
    change(context)
    at = urlsplit(one_way.url("guest"))
    async with one_way.apart("guest") as actors:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection(at.hostname, at.port, ssl=context)
        assert actors["guest"].actor.counters["refused.handshake"] == 1


async def test_without_tls_nothing_is_said_where_there_is_tls(one_way: Deployment) -> None:
    at = urlsplit(one_way.url("guest"))
    async with one_way.apart("guest"):
        line = Line(*await asyncio.open_connection(at.hostname, at.port))
        await line.say(b"GET /.well-known/shirako HTTP/1.1\r\nHost: localhost\r\n\r\n")
        heard = await line.rest()
        line.close()
    assert b"HTTP/" not in heard
