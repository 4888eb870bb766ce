"""`shirako ca`: an authority and its certificates, made and shown."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path
from typing import Any

import pytest

from shirako.certificates import read_certificates
from tests.security.conftest import DESCRIPTOR, shirako


def shown(folder: Path) -> dict[str, Any]:
    return {row["file"]: row for row in json.loads(shirako("ca", "show", str(folder), "--json"))}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "my certs"
    assert "made" in shirako("ca", "init", str(made), "--name", "Example Lab", "--days", "100")
    return made


def test_an_authority(folder: Path) -> None:
    row = shown(folder)["ca.pem"]
    assert (row["name"], row["kind"], row["days"] in (99, 100)) == (
        "Example Lab",
        "authority",
        True,
    )
    assert stat.S_IMODE((folder / "ca.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    before = (folder / "ca.pem").read_bytes()
    assert "nothing was overwritten" in shirako("ca", "init", str(folder), status=1)
    assert (folder / "ca.pem").read_bytes() == before


def test_one_for_a_server_and_one_for_a_person(folder: Path) -> None:
    hosts = ("--host", "site.example.org", "--host", "192.0.2.7", "--host", "192.0.2.7")
    shirako("ca", "issue", str(folder), "site", *hosts, "--days", "10")
    told = json.loads(
        shirako("ca", "issue", str(folder), "ann", "--client", "--days", "10", "--json")
    )
    assert told == [{"name": "ann", "certificate": str(folder / "ann.pem"), "made": True}]
    rows = shown(folder)
    assert (rows["site.pem"]["kind"], rows["site.pem"]["hosts"]) == (
        "server",
        ["site.example.org", "192.0.2.7"],
    )
    assert (rows["ann.pem"]["kind"], rows["ann.pem"]["hosts"]) == ("client", [])
    text = shirako("ca", "show", str(folder))
    assert "site.example.org, 192.0.2.7" in text
    assert re.search(r"\b(9|10) days", text)
    before = (folder / "site.key").read_bytes()
    assert "nothing was overwritten" in shirako(
        "ca", "issue", str(folder), "site", "--host", "x", "--days", "10", status=1
    )
    assert (folder / "site.key").read_bytes() == before


def test_one_for_each_actor(folder: Path) -> None:
    path = folder.parent / "actors.xml"
    tls = '<tls certificates="my certs"/>'
    text = DESCRIPTOR.format(tls=tls, scheme="https", ports=(7701, 7702, 7703))
    path.write_text(text.replace("127.0.0.1:7702", "broker.example.org:7702"))
    arguments = ("ca", "issue", str(folder), "--actors", str(path), "--days", "10")
    assert shirako(*arguments).count("made") == 3
    assert shown(folder)["broker.pem"]["hosts"] == ["broker.example.org"]
    before = (folder / "site.pem").read_bytes()
    for suffix in ("pem", "key"):
        (folder / f"broker.{suffix}").unlink()
    told = {one["name"]: one["made"] for one in json.loads(shirako(*arguments, "--json"))}
    assert told == {"site": False, "broker": True, "guest": False}
    assert (folder / "site.pem").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (("issue", "{0}"), 2, "say for whom"),
        (("issue", "{0}", "x"), 2, "say what for"),
        (("issue", "{0}", "x", "--host", "h", "--client"), 2, "say what for"),
        (("issue", "{0}", "x", "--actors", "a.xml"), 2, "say for whom"),
        (("issue", "{0}", "--actors", "a.xml", "--host", "h"), 2, "leave --host"),
        (("issue", "{0}", "--actors", "none.xml"), 2, "there is no such file"),
        (("issue", "{0}", "x", "--host", "h", "--days", "0"), 2, "1<=x<="),
        (("issue", "{0}", "x", "--host", "h", "--days", "500"), 1, "fewer days"),
        (("issue", "{0}", "ca", "--client", "--days", "5"), 1, "authority's own name"),
        (("issue", "{0}", "../x", "--client", "--days", "5"), 1, "can not be a certificate's name"),
        (("issue", "{0}/none", "x", "--client"), 1, "shirako ca init"),
        (("show", "{0}/none"), 1, "there is no folder"),
        (("init", "{0}/c", "--name", ""), 1, "can not be a certificate's name"),
    ],
)
def test_wrong_wishes(folder: Path, arguments: tuple[str, ...], status: int, told: str) -> None:
    words = [word.format(folder) for word in arguments]
    before = sorted(folder.iterdir())
    assert told in shirako("ca", *words, status=status)
    assert sorted(folder.iterdir()) == before


def test_what_is_no_certificate_is_shown_as_that(folder: Path) -> None:
    (folder / "odd.pem").write_text("rubbish")
    assert "no PEM file" in shown(folder)["odd.pem"]["fault"]
    assert "no PEM file" in shirako("ca", "show", str(folder))


def test_a_certificate_of_a_person_serves_nowhere(folder: Path) -> None:
    shirako("ca", "issue", str(folder), "ann", "--client", "--days", "10")
    (ann,) = read_certificates(folder / "ann.pem")
    (authority,) = read_certificates(folder / "ca.pem")
    assert ann.issued_by([authority]) is authority
    assert not ann.serves("ann")
    assert ann.issued_by([ann]) is None
