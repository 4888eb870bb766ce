"""`<tls>` and the files behind it: each mistake, where it is told, and how to mend it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from shirako.certificates import issue, issue_client, make_authority
from shirako.descriptor import Descriptor, Fault, TlsSpec, read_descriptor
from tests.descriptor.conftest import VALID

Faults = Callable[[str], tuple[Fault, ...]]
NOW = datetime.now(UTC)
HOST = "broker.example.org"
TLS = '<tls certificates="certs"/>'


@pytest.fixture
def certs(site: Path) -> Path:
    """What `shirako ca` makes for the sound descriptor with its broker at an https url."""
    folder = site / "certs"
    make_authority(folder, "site CA", NOW, 30)
    issue(folder, "broker", (HOST, "192.0.2.7"), NOW, 20)
    return folder


def text(tls: str = TLS, url: str = f"https://{HOST}:7702") -> str:
    """The sound descriptor with an https broker; `tls` stands at line 34."""
    return VALID.replace("http://127.0.0.1:7702", url).replace("</actors>", f"{tls}\n</actors>")


def again(folder: Path, make: Callable[[], object]) -> None:
    for suffix in ("pem", "key"):
        (folder / f"broker.{suffix}").unlink()
    make()


def only(found: tuple[Fault, ...], line: int) -> Fault:
    assert [fault.line for fault in found] == [line], "\n".join(map(str, found))
    return found[0]


def test_what_is_read(read: Callable[[str], Descriptor], site: Path, certs: Path) -> None:
    assert read(text()).tls == TlsSpec(certificates=certs, mutual=False, ca=None, line=34)
    for name in ("site", "guest"):
        issue(certs, name, ("127.0.0.1",), NOW, 20)
    shutil.copy(certs / "ca.pem", site / "more.pem")
    found = read(text('<tls certificates="certs" mutual="true" ca="more.pem"/>')).tls
    assert found == TlsSpec(certificates=certs, mutual=True, ca=site / "more.pem", line=34)


def test_other_ways_to_be_sound(read: Callable[[str], Descriptor], site: Path, certs: Path) -> None:
    assert read(VALID).tls is None, "https elsewhere needs no <tls>"
    assert read(text(url="https://192.0.2.7:7702")).tls
    again(certs, lambda: issue(certs, "broker", ("*.example.org",), NOW, 20))
    assert read(text(url="https://Broker.Example.org:7702")).tls


def test_certificates_of_an_authority_below_the_authority(
    read: Callable[[str], Descriptor], site: Path, certs: Path
) -> None:
    """The chain lies in the certificate's own file, as servers want it."""
    upper, lower = (certs / "ca.pem").read_bytes(), site / "lower"
    make_authority(lower, "another", NOW, 30)
    again(certs, lambda: issue(lower, "broker", (HOST,), NOW, 20))
    chain = (lower / "broker.pem").read_bytes() + (lower / "ca.pem").read_bytes()
    (certs / "broker.pem").write_bytes(chain)
    shutil.copy(lower / "broker.key", certs / "broker.key")
    (certs / "ca.pem").write_bytes(upper + (lower / "ca.pem").read_bytes())
    assert read(text()).tls


def test_https_without_certificates(faults: Faults, site: Path) -> None:
    fault = only(faults(text(tls="")), 21)
    assert fault.message == "broker 'broker' answers at https, and there are no certificates"
    assert fault.mend == (
        'add <tls certificates="certs"/> below <actors>, then: shirako ca init certs; '
        f"shirako ca issue certs --actors {site / 'actors.xml'}"
    )


def test_certificates_without_https(faults: Faults, site: Path, certs: Path) -> None:
    near = text(url="http://127.0.0.1:7702")
    fault = only(
        faults(
            near.replace("https://far.example.org", "http://localhost").replace(
                ':7701" key="keys/far', ':7709" key="keys/far'
            )
        ),
        34,
    )
    assert fault.message == "<tls> is of no use: no url is https"
    assert fault.mend == "write https urls, or remove it"


def test_twice(faults: Faults, site: Path, certs: Path) -> None:
    fault = only(faults(text(f"{TLS}\n{TLS}")), 35)
    assert fault.message == "<tls> is already there, at line 34"


ISSUE = f"shirako ca issue {{certs}} broker --host {HOST}"
AGAIN = f"remove broker.pem and broker.key in {{certs}}, then: {ISSUE}"


def no_authority(certs: Path) -> None:
    (certs / "ca.pem").unlink()


def authority_over(certs: Path) -> None:
    shutil.rmtree(certs)
    make_authority(certs, "old", NOW - timedelta(days=9), 3)


def authority_that_is_none(certs: Path) -> None:
    shutil.copy(certs / "broker.pem", certs / "ca.pem")


def authority_rubbish(certs: Path) -> None:
    (certs / "ca.pem").write_text("rubbish")


@pytest.mark.parametrize(
    ("damage", "message", "mend"),
    [
        (no_authority, "there is no {certs}/ca.pem", "make them with: shirako ca init {certs}"),
        (
            authority_over,
            "{certs}/ca.pem ended " + f"{NOW - timedelta(days=6):%Y-%m-%d}",
            "remove it; make them with: shirako ca init {certs}",
        ),
        (
            authority_that_is_none,
            "{certs}/ca.pem is no authority's",
            "make them with: shirako ca init {certs}",
        ),
        (
            authority_rubbish,
            "{certs}/ca.pem: it is no PEM file of the right kind",
            "make them with: shirako ca init {certs}",
        ),
    ],
)
def test_authorities(
    faults: Faults,
    site: Path,
    certs: Path,
    damage: Callable[[Path], None],
    message: str,
    mend: str,
) -> None:
    damage(certs)
    fault = only(faults(text()), 34)
    assert fault.message == "<tls>: " + message.format(certs=certs)
    assert fault.mend == mend.format(certs=certs)


@pytest.mark.parametrize(("content", "told"), [(None, "there is no"), ("x", "it is no PEM file")])
def test_further_authorities(
    faults: Faults, site: Path, certs: Path, content: str | None, told: str
) -> None:
    if content is not None:
        (site / "more.pem").write_text(content)
    fault = only(faults(text('<tls certificates="certs" ca="more.pem"/>')), 34)
    assert told in fault.message
    assert fault.mend == "name a PEM file of the authorities of peers"


def no_certificate(certs: Path) -> None:
    for suffix in ("pem", "key"):
        (certs / f"broker.{suffix}").unlink()


def no_key(certs: Path) -> None:
    (certs / "broker.key").unlink()


def wrong_key(certs: Path) -> None:
    issue(certs, "other", (HOST,), NOW, 20)
    shutil.copy(certs / "other.key", certs / "broker.key")


def key_rubbish(certs: Path) -> None:
    (certs / "broker.key").write_text("rubbish")


def key_for_all(certs: Path) -> None:
    (certs / "broker.key").chmod(0o644)


def over(certs: Path) -> None:
    again(certs, lambda: issue(certs, "broker", (HOST,), NOW - timedelta(days=9), 3))


def early(certs: Path) -> None:
    again(certs, lambda: issue(certs, "broker", (HOST,), NOW + timedelta(days=2), 3))


def elsewhere(certs: Path) -> None:
    again(certs, lambda: issue(certs, "broker", ("east.example.org", "::1"), NOW, 3))


def client(certs: Path) -> None:
    again(certs, lambda: issue_client(certs, "broker", NOW, 3))


def foreign(certs: Path) -> None:
    make_authority(certs / "x", "site CA", NOW, 30)
    issue(certs / "x", "broker", (HOST,), NOW, 20)
    for suffix in ("pem", "key"):
        shutil.copy(certs / "x" / f"broker.{suffix}", certs / f"broker.{suffix}")


@pytest.mark.parametrize(
    ("damage", "message", "mend"),
    [
        (no_certificate, "there is no {certs}/broker.pem", f"make it with: {ISSUE}"),
        (
            no_key,
            "there is no {certs}/broker.key",
            "remove {certs}/broker.pem, then: " + ISSUE,
        ),
        (wrong_key, "{certs}/broker.key is not the key of {certs}/broker.pem", AGAIN),
        (key_rubbish, "{certs}/broker.key: it is no PEM file of the right kind", AGAIN),
        (key_for_all, "{certs}/broker.key can be read by others", "chmod 600 {certs}/broker.key"),
        (over, "{certs}/broker.pem ended " + f"{NOW - timedelta(days=6):%Y-%m-%d}", AGAIN),
        (early, "{certs}/broker.pem begins " + f"{NOW + timedelta(days=2):%Y}", AGAIN),
        (
            elsewhere,
            "{certs}/broker.pem is for east.example.org, ::1, not for " + HOST,
            AGAIN,
        ),
        (client, "{certs}/broker.pem is for clients alone, not for " + HOST, AGAIN),
        (foreign, "{certs}/broker.pem is not certified by the authority beside it", AGAIN),
    ],
)
def test_certificates_and_keys(
    faults: Faults,
    site: Path,
    certs: Path,
    damage: Callable[[Path], None],
    message: str,
    mend: str,
) -> None:
    damage(certs)
    fault = only(faults(text()), 21)
    assert fault.message.startswith("broker 'broker': " + message.format(certs=certs))
    assert fault.mend == mend.format(certs=certs)


def test_mutual_asks_every_actor(faults: Faults, site: Path, certs: Path) -> None:
    """Also those at http addresses: they connect to others."""
    found = faults(text('<tls certificates="certs" mutual="true"/>'))
    assert [fault.line for fault in found] == [4, 22]
    issue(certs, "site", ("elsewhere",), NOW, 20)
    issue_client(certs, "guest", NOW, 20)
    assert read_descriptor(site / "actors.xml").tls


def test_an_actor_called_as_the_authority(faults: Faults, site: Path, certs: Path) -> None:
    named = text().replace('name="broker"', 'name="ca"').replace('"broker"', '"ca"')
    fault = only(faults(named), 21)
    assert fault.message == "broker 'ca': ca.pem is the authority's own certificate"
    assert fault.mend == "give the actor another name"


def test_what_is_absent_matters_only_where_it_is_asked_for(site: Path, certs: Path) -> None:
    (site / "actors.xml").write_text(text())
    for damage in (no_certificate, no_authority):
        damage(certs)
        assert read_descriptor(site / "actors.xml", keys=False).tls
