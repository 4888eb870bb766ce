"""Actors that meet over TLS: whole leases, and those that are kept out."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from shirako.api.models import LeaseRequest, Status
from shirako.certificates import CertificateError, issue, make_authority, read_certificates
from shirako.client import Client, Unreachable
from shirako.credentials import Credentials, Files
from shirako.descriptor import read_descriptor
from tests.security.conftest import NAMES, Deployment, come_true, deploy, shirako

NOW = datetime.now(UTC)
WISH = LeaseRequest(slice="blue", type="node", units=2, duration=3600)


async def live(deployment: Deployment) -> None:
    """A whole lease, from the request to the receipt, asked for over the same TLS."""
    async with deployment.client("broker", "broker-admin") as seller:
        for _ in range(500):
            if await seller.broker_delegations():
                break
    async with deployment.client("guest", "guest") as ann:
        lease = await ann.request_lease(WISH)
        seen = []
        async for event in ann.watch(lease.id):
            if hasattr(event, "lease"):
                seen.append(event.lease.state)
                if event.lease.state == "Active":
                    assert len(event.lease.held) == 2
                    await ann.close(lease.id)
        assert "Active" in seen
        assert seen[-1] == "Closed"
    async with deployment.client("site", "site-admin") as ops:
        assert [one.state for one in await ops.site_leases()] == ["Closed"]


@pytest.mark.parametrize("kind", ["mutual", "one_way"])
async def test_a_whole_lease(kind: str, request: pytest.FixtureRequest) -> None:
    deployment: Deployment = request.getfixturevalue(kind)
    async with deployment.apart():
        await live(deployment)


async def test_who_shows_no_certificate_is_kept_out(mutual: Deployment) -> None:
    async with mutual.apart("guest") as actors:
        async with mutual.client("guest", "guest", show=None) as bare:
            with pytest.raises(Unreachable, match="it may demand a certificate") as caught:
                await bare.leases()
        assert caught.value.trouble == "demanded"
        assert actors["guest"].actor.counters["refused.handshake"] > 0
        async with mutual.client("guest", "guest") as ann:
            assert await ann.leases() == ()


async def test_certificates_of_others_let_nobody_in(
    mutual: Deployment, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Neither a stranger's at our door, nor ours at a stranger's."""
    other = deploy(tmp_path_factory.mktemp("other"), '<tls certificates="certs" mutual="true"/>')
    async with mutual.apart("guest"), other.apart("site"):
        theirs = shutil.copytree(mutual.certificates, mutual.folder / "theirs")
        for file in ("ann.pem", "ann.key"):
            shutil.copy(other.certificates / file, theirs / file)
        stranger = Deployment(mutual.folder, mutual.descriptor, mutual.tokens)
        mutual.certificates.rename(mutual.folder / "ours")
        theirs.rename(mutual.certificates)
        async with stranger.client("guest", "guest") as client:
            with pytest.raises(Unreachable, match="it may demand a certificate"):
                await client.leases()
        other.certificates.joinpath("ca.pem").write_bytes(
            mutual.certificates.joinpath("ca.pem").read_bytes()
        )
        async with other.client("site", "site-admin") as client:
            with pytest.raises(Unreachable, match="no authority that is trusted") as caught:
                await client.nodes()
        assert caught.value.trouble == "untrusted"


def with_other_certificates(deployment: Deployment, tls: str) -> Deployment:
    """The same actors, with certificates of another authority, in `theirs`."""
    theirs = deployment.folder / "theirs"
    make_authority(theirs, "another", NOW, 30)
    for name in NAMES:
        issue(theirs, name, ("127.0.0.1",), NOW, 20)
    both = (theirs / "ca.pem", deployment.certificates / "ca.pem")
    (deployment.folder / "both.pem").write_bytes(b"".join(one.read_bytes() for one in both))
    path = deployment.folder / "other.xml"
    path.write_text(deployment.descriptor.path.read_text().replace('certificates="certs"', tls))
    return Deployment(deployment.folder, read_descriptor(path), deployment.tokens)


async def test_a_broker_with_a_certificate_of_others_is_told_of_and_not_talked_to(
    mutual: Deployment, caplog: pytest.LogCaptureFixture
) -> None:
    other = with_other_certificates(mutual, 'certificates="theirs"')
    async with other.apart("broker") as brokers, mutual.apart("site"):
        await come_true(lambda: "no authority that is trusted here" in caplog.text)
        assert brokers["broker"].actor.role.delegations == {}


async def test_a_second_authority_is_taken_where_the_descriptor_names_it(
    mutual: Deployment,
) -> None:
    """Two sites, each with an authority of its own, whose actors meet all the same."""
    other = with_other_certificates(mutual, 'certificates="theirs" ca="both.pem"')
    path = mutual.descriptor.path
    path.write_text(path.read_text().replace('"certs"', '"certs" ca="both.pem"'))
    here = Deployment(mutual.folder, read_descriptor(path), mutual.tokens)
    async with other.apart("broker") as brokers, here.apart("site"):
        await come_true(lambda: brokers["broker"].actor.role.delegations)


# Ends -------------------------------------------------------------------------------------------


async def test_status_tells_when_the_certificate_ends(mutual: Deployment) -> None:
    async with mutual.apart("site"), mutual.client("site", "site-admin") as ops:
        told = await ops._get(Status, "/status")
        assert told.certificate_ends is not None
        assert timedelta(days=360) < told.certificate_ends - NOW < timedelta(days=366)
        assert (await ops.status()).name == "site"


async def test_without_tls_there_is_no_end(plain: Deployment) -> None:
    async with plain.apart("site"), plain.client("site", "site-admin") as ops:
        assert (await ops._get(Status, "/status")).certificate_ends is None


def renewed(folder: Path, name: str, begins: datetime, days: int) -> None:
    for suffix in ("pem", "key"):
        (folder / f"{name}.{suffix}").unlink()
    issue(folder, name, ("127.0.0.1",), begins, days)


async def test_an_end_that_is_near_is_warned_of_once_a_day(
    mutual: Deployment, caplog: pytest.LogCaptureFixture
) -> None:
    one = Credentials("site", Files(mutual.certificates), mutual=True)
    one.look(one.ends - timedelta(days=15))
    assert caplog.messages == []
    for hours in (300, 290, 270, 1):
        one.look(one.ends - timedelta(hours=hours))
    assert len(caplog.messages) == 3
    assert all(f"ends {one.ends:%Y-%m-%d}" in told for told in caplog.messages)
    one.look(one.ends + timedelta(days=2))
    assert "ended" in caplog.messages[-1]


async def test_the_log_of_a_running_actor_warns(
    mutual: Deployment, caplog: pytest.LogCaptureFixture
) -> None:
    renewed(mutual.certificates, "site", NOW - timedelta(days=99), 100)
    async with mutual.apart("site"):
        await come_true(lambda: "the certificate of site ends" in caplog.text)


async def test_a_new_certificate_is_shown_without_a_restart(
    mutual: Deployment, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("shirako.credentials.LOOK_SECONDS", 0.05)
    async with mutual.apart("site"):

        async def end() -> datetime:
            async with mutual.client("site", "site-admin") as ops:
                told = await ops._get(Status, "/status")
                assert told.certificate_ends is not None
                return told.certificate_ends

        before = await end()
        (mutual.certificates / "site.key").write_text("half written")
        await come_true(lambda: "goes on with its old certificate" in caplog.text)
        assert await end() == before
        renewed(mutual.certificates, "site", NOW, 100)
        await come_true(lambda: "shows its new certificate" in caplog.text)
        assert await end() < before


def test_credentials_that_do_not_fit_are_refused(mutual: Deployment) -> None:
    shutil.copy(mutual.certificates / "guest.key", mutual.certificates / "site.key")
    with pytest.raises(CertificateError, match="key values mismatch"):
        Credentials("site", Files(mutual.certificates), mutual=True)


# As people have it: processes, and the command --------------------------------------------------


@contextmanager
def processes(deployment: Deployment) -> Iterator[None]:
    """Each actor in a process of its own, as `shirako run` starts it; all are up."""
    started = []
    try:
        for name in NAMES:
            log = (deployment.folder / f"{name}.log").open("w")
            command = [sys.executable, "-m", "shirako", "run", str(deployment.descriptor.path)]
            with log:
                started.append(
                    subprocess.Popen(
                        [*command, "--actor", name], stdout=log, stderr=log, env={**os.environ}
                    )
                )
        deadline = time.monotonic() + 30
        for name in NAMES:
            log_file = deployment.folder / f"{name}.log"
            while f"runs at {deployment.url(name)}" not in log_file.read_text():
                assert time.monotonic() < deadline, log_file.read_text()
                time.sleep(0.05)
        yield
    finally:
        for process in started:
            process.terminate()
        ends = [process.wait(20) for process in started]
    assert ends == [0, 0, 0]


def test_processes_and_the_command(mutual: Deployment) -> None:
    certs = mutual.certificates
    url, token = mutual.url("guest"), mutual.tokens["guest"]
    whole = {
        "SHIRAKO_URL": url,
        "SHIRAKO_TOKEN": token,
        "SHIRAKO_CA": str(certs / "ca.pem"),
        "SHIRAKO_CERT": str(certs / "ann.pem"),
    }
    with processes(mutual):
        asyncio.run(live(mutual))
        assert "Closed" in shirako("lease", "list", environment=whole)
        by_option = ["--url", url, "--token", token, "--ca", str(certs / "ca.pem")]
        shown = ["--cert", str(certs / "ann.pem"), "--cert-key", str(certs / "ann.key")]
        assert "Closed" in shirako("lease", "list", *by_option, *shown)
        told = shirako("lease", "list", *by_option, status=1)
        assert "it may demand a certificate" in told
        assert "--cert and --cert-key" in told
        told = shirako("lease", "list", status=1, environment={**whole, "SHIRAKO_CA": ""})
        assert "no authority that is trusted" in told
        assert "SHIRAKO_CA" in told
        elsewhere = {**whole, "SHIRAKO_URL": url.replace("127.0.0.1", "localhost")}
        told = shirako("lease", "list", status=1, environment=elsewhere)
        assert "for another host" in told
        bare = {**whole, "SHIRAKO_URL": url.replace("https", "http")}
        told = shirako("lease", "list", status=1, environment=bare)
        assert "can not be reached" in told
        config = Path(os.environ["XDG_CONFIG_HOME"]) / "shirako" / "client.toml"
        config.parent.mkdir(parents=True)
        (config.parent / "ca.pem").write_bytes((certs / "ca.pem").read_bytes())
        config.write_text(
            f'url = "{url}"\ntoken = "{token}"\nca = "ca.pem"\ncert = "{certs / "ann.pem"}"\n'
            f'cert-key = "{certs / "ann.key"}"\n'
        )
        assert "Closed" in shirako("lease", "list")


async def test_a_certificate_that_ended_while_its_actor_ran(mutual: Deployment) -> None:
    certs = mutual.certificates
    renewed(certs, "guest", datetime.now(UTC) - timedelta(days=1) + timedelta(seconds=4), 1)
    where = ("--url", mutual.url("guest"), "--token", "x", "--ca", str(certs / "ca.pem"))
    async with mutual.apart("guest"):
        (one,) = read_certificates(certs / "guest.pem")
        await come_true(lambda: datetime.now(UTC) > one.ends)
        told = await asyncio.to_thread(shirako, "lease", "list", *where, status=1)
    assert "its certificate has expired" in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--ca", "none.pem"), "none.pem: No such file"),
        (("--cert", "none.pem"), "there is no none.key"),
        (("--cert", "none.pem", "--cert-key", "none.key"), "No such file"),
        (("--cert-key", "none.key"), "--cert-key is of no use without --cert"),
    ],
)
def test_files_that_are_not_there(arguments: tuple[str, ...], told: str) -> None:
    where = ("--url", "https://127.0.0.1:1", "--token", "x")
    assert told in shirako("lease", "list", *where, *arguments, status=2)


async def test_https_where_there_is_none(plain: Deployment) -> None:
    async with plain.apart("guest"):
        url = plain.url("guest").replace("http", "https")
        async with Client(url, plain.tokens["guest"], attempts=2) as client:
            with pytest.raises(Unreachable, match="https or http") as caught:
                await client.leases()
        assert caught.value.trouble == "plain"
