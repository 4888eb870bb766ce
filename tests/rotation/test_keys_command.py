"""`shirako keys` as people meet it: what it prints, and what it says when it can not be done."""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from shirako.cli import main
from shirako.core.lineage import SUCCESSIONS_MAX
from shirako.descriptor import read_descriptor
from shirako.trust import PrivateKey, public_path, read_pin
from tests.rotation.conftest import NAMES
from trio import DESCRIPTOR


@dataclass(frozen=True)
class Desk:
    """A folder with a descriptor and its keys; nothing runs."""

    path: Path

    def __call__(self, *arguments: str, status: int = 0) -> str:
        with contextlib.chdir(self.path):
            result = CliRunner().invoke(main, ["keys", *arguments])
        assert result.exit_code == status, (arguments, result.output)
        assert "Traceback" not in result.output
        return result.stdout or result.stderr

    def key(self, name: str) -> Path:
        return self.path / "keys" / f"{name}.jwk"

    def faults(self) -> list[str]:
        with contextlib.chdir(self.path):
            told = json.loads(CliRunner().invoke(main, ["check", "--json"]).stdout)
        return [fault["message"] for fault in told["faults"]]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    text = DESCRIPTOR.format(site=1, broker=2, guest=3, driver="", guest_driver="", units=1)
    (tmp_path / "actors.xml").write_text(text)
    made = Desk(tmp_path)
    made()
    return made


@pytest.mark.parametrize("words", [(), ("actors.xml",), ("make",), ("make", "actors.xml")])
def test_the_first_word_may_be_missing(desk: Desk, words: tuple[str, ...]) -> None:
    desk.key("site").unlink()
    public_path(desk.key("site")).unlink()
    lines = desk(*words).splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["made", "site"],
        ["kept", "broker"],
        ["kept", "guest"],
    ]
    assert {one["made"] for one in json.loads(desk(*words, "--json"))} == {False}


def test_help_tells_of_both() -> None:
    told = CliRunner().invoke(main, ["keys", "--help"]).stdout
    assert "make" in told
    assert "shirako keys rotate site actors.xml" in told
    assert "--dry-run" in CliRunner().invoke(main, ["keys", "rotate", "-h"]).stdout


def test_a_person_is_told_what_to_do_next(desk: Desk) -> None:
    kid = PrivateKey.read(desk.key("site")).public.kid
    told = desk("rotate", "site", "--grace", "2d")
    assert told.startswith("replaced: the key of site\n")
    assert f"{kid} (as before)" in told
    assert "Next: restart site" in told
    assert str(public_path(desk.key("site"))) in told
    assert "site.retired-0.jwk" in told
    private = json.loads(desk.key("site").read_text())["d"]
    assert private not in told
    assert "kept: it was replaced less than an hour ago" in desk("rotate", "site")
    assert "key 2 " in desk("rotate", "site", "--again")
    read_descriptor(desk.path / "actors.xml")


def test_a_dry_run_says_so(desk: Desk) -> None:
    before = desk.key("site").read_bytes()
    told = desk("rotate", "site", "--dry-run")
    assert told.startswith("would be replaced: the key of site\n")
    assert "not made yet" in told
    as_json = json.loads(desk("rotate", "site", "--dry-run", "--json"))
    assert (as_json["done"], as_json["dry_run"], as_json["kid"]) == ("rotated", True, None)
    assert desk.key("site").read_bytes() == before


def test_wrong_usage(desk: Desk) -> None:
    told = desk("rotate", "nobody", status=2)
    assert "no actor 'nobody'; actors.xml has site, broker, guest" in told
    assert "duration '5' has no unit" in desk("rotate", "site", "--grace", "5", status=2)
    assert "Missing argument 'ACTOR'" in desk("rotate", status=2)


def test_what_is_refused_says_how_to_mend_it(desk: Desk) -> None:
    for _ in range(SUCCESSIONS_MAX):
        desk("rotate", "site", "--again")
    told = desk("rotate", "site", "--again", status=1)
    assert "replaced 8 times" in told
    assert "give it a new key file, which peers have to pin" in told
    old = desk.path / "keys" / "site.retired-3.jwk"
    shutil.copy(old, desk.key("site"))
    assert "perhaps an old copy" in desk("rotate", "site", "--again", status=1)


def test_the_descriptors_check_reads_lineages(desk: Desk) -> None:
    for name in NAMES:
        desk("rotate", name)
    assert desk.faults() == []
    whole = desk.key("site").read_text()
    told = json.loads(whole)
    told["lineage"] = list(PrivateKey.read(desk.key("broker")).lineage)
    desk.key("site").write_text(json.dumps(told))
    (fault,) = desk.faults()
    assert "site.jwk is broken: its lineage is that of another key" in fault
    told["lineage"] = ["x"]
    desk.key("site").write_text(json.dumps(told))
    (fault,) = desk.faults()
    assert "is broken: the lineage does not hold: not a succession" in fault


def test_a_key_that_another_actor_has_retired_is_that_actors(desk: Desk) -> None:
    desk("rotate", "site")
    retired = desk.path / "keys" / "site.retired-0.jwk"
    shutil.copy(retired, desk.key("broker"))
    (fault,) = desk.faults()
    assert "broker 'broker' has the same key as authority 'site'" in fault


def test_the_public_file_is_what_new_peers_pin(desk: Desk) -> None:
    first = read_pin(public_path(desk.key("site")))
    desk("rotate", "site")
    pin = read_pin(public_path(desk.key("site")))
    assert pin.key.kid == first.key.kid
    assert (len(first.lineage), len(pin.lineage)) == (0, 1)
