"""The small authority: what it makes is taken by real TLS, and what others make is not."""

from __future__ import annotations

import ssl
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web

from shirako.certificates import (
    CertificateError,
    client_context,
    issue,
    make_authority,
    server_context,
)
from shirako.transport import Unreachable
from shirako.transport.http import HttpTransport, message_routes

NOW = datetime.now(UTC)


async def echo(envelope: bytes) -> bytes:
    return b"taken " + envelope


@asynccontextmanager
async def served(context: ssl.SSLContext) -> AsyncIterator[str]:
    app = web.Application()
    app.add_routes(message_routes(echo, {}))
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    try:
        port = runner.addresses[0][1]
        yield f"https://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


async def post(url: str, context: ssl.SSLContext) -> bytes:
    transport = HttpTransport(context)
    try:
        return await transport.post(url, b"hello")
    finally:
        await transport.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_authority(tmp_path, "site CA", NOW, 30)
    issue(tmp_path, "site", ("127.0.0.1", "localhost"), NOW, 20)
    issue(tmp_path, "guest", ("127.0.0.1",), NOW, 20)
    return tmp_path


def client(folder: Path, name: str = "guest") -> ssl.SSLContext:
    return client_context(folder / "ca.pem", folder / f"{name}.pem", folder / f"{name}.key")


def server(folder: Path, *, mutual: bool = True, name: str = "site") -> ssl.SSLContext:
    clients = folder / "ca.pem" if mutual else None
    return server_context(folder / f"{name}.pem", folder / f"{name}.key", clients)


async def test_both_ends_know_each_other(folder: Path) -> None:
    async with served(server(folder)) as url:
        assert await post(url, client(folder)) == b"taken hello"


async def test_a_client_without_a_certificate_is_not_let_in(folder: Path) -> None:
    bare = client_context(folder / "ca.pem", None, None)
    async with served(server(folder)) as url:
        with pytest.raises(Unreachable):
            await post(url, bare)
    async with served(server(folder, mutual=False)) as url:
        assert await post(url, bare) == b"taken hello"


async def test_certificates_of_another_authority_are_worth_nothing(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    make_authority(other, "site CA", NOW, 30)
    issue(other, "site", ("127.0.0.1",), NOW, 20)
    issue(other, "guest", ("127.0.0.1",), NOW, 20)
    mixed = client_context(folder / "ca.pem", other / "guest.pem", other / "guest.key")
    async with served(server(folder)) as url:
        with pytest.raises(Unreachable):
            await post(url, mixed)
    async with served(server(other, mutual=False)) as url:
        with pytest.raises(Unreachable, match="certificate"):
            await post(url, client(folder))


async def test_a_certificate_for_another_host_is_refused(folder: Path) -> None:
    issue(folder, "elsewhere", ("site.example",), NOW, 20)
    async with served(server(folder, name="elsewhere")) as url:
        with pytest.raises(Unreachable, match="certificate"):
            await post(url, client(folder))


async def test_a_certificate_that_is_over_is_refused(folder: Path) -> None:
    issue(folder, "old", ("127.0.0.1",), NOW - timedelta(days=9), 2)
    async with served(server(folder, name="old")) as url:
        with pytest.raises(Unreachable, match="expired"):
            await post(url, client(folder))


def test_keys_are_their_owners_alone_and_nothing_is_overwritten(folder: Path) -> None:
    assert stat.S_IMODE((folder / "site.key").stat().st_mode) == 0o600
    before = (folder / "site.key").read_bytes()
    with pytest.raises(CertificateError, match="nothing was overwritten"):
        issue(folder, "site", ("127.0.0.1",), NOW, 20)
    with pytest.raises(CertificateError, match="nothing was overwritten"):
        make_authority(folder, "again", NOW, 30)
    assert (folder / "site.key").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "hosts", "days", "told"),
    [
        ("ca", ("127.0.0.1",), 5, "authority's own name"),
        ("x", (), 5, "at least one host"),
        ("x", ("a" * 300,), 5, "neither a host's name"),
        ("x", ("127.0.0.1",), 0, "at least one day"),
        ("x", ("127.0.0.1",), 400, "fewer days"),
        ("", ("127.0.0.1",), 5, "can not be a certificate's name"),
    ],
)
def test_bad_wishes(folder: Path, name: str, hosts: tuple[str, ...], days: int, told: str) -> None:
    with pytest.raises(CertificateError, match=told):
        issue(folder, name, hosts, NOW, days)


def test_files_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match="there is no authority"):
        issue(tmp_path / "empty", "x", ("127.0.0.1",), NOW, 5)
    with pytest.raises(CertificateError):
        server_context(folder / "site.pem", folder / "guest.key", None)
    with pytest.raises(CertificateError, match="No such file"):
        client_context(folder / "nothing.pem", None, None)
    (folder / "ca.key").write_text("rubbish")
    with pytest.raises(CertificateError, match="can not be read"):
        issue(folder, "x", ("127.0.0.1",), NOW, 5)
