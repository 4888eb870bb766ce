"""Guest, broker and site get new keys by the command, one after the other, while a lease is live:
three processes, HTTP, SQLite."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from click.testing import CliRunner

from shirako.cli import main
from shirako.transport.envelope import seal
from shirako.trust import PrivateKey, PublicKey, public_path
from tests.rotation.conftest import NAMES, Folder

pytestmark = [pytest.mark.real]


def run(*arguments: str, status: int = 0) -> Any:
    """What the command prints as JSON."""
    result = CliRunner().invoke(main, [*arguments, "--json"])
    assert result.exit_code == status, (arguments, result.output)
    return json.loads(result.stdout)


def rotate(folder: Folder, name: str) -> dict[str, Any]:
    """As people do it, in a process of its own."""
    command = Path(sys.executable).with_name("shirako")
    arguments = ["keys", "rotate", name, str(folder.descriptor), "--json"]
    done = subprocess.run([command, *arguments], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    folder.restart(name)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def about(folder: Folder, name: str) -> dict[str, Any]:
    with urlopen(f"{folder.rest(name).url}/.well-known/shirako", timeout=20) as answer:
        told: dict[str, Any] = json.load(answer)
    return told


def refusal(folder: Folder, name: str, key: PrivateKey) -> str:
    """Why the actor refuses an envelope of this key; empty when it takes it."""
    data = seal(key, about(folder, name)["kid"], time.time_ns(), time.time_ns() // 1_000_000, [])
    request = Request(f"{folder.rest(name).url}/messages", data=data, method="POST")
    try:
        with urlopen(request, timeout=20) as answer:
            assert answer.status == 202
            return ""
    except HTTPError as error:
        with error:
            return f"{json.load(error)['title']} {error.code}"


def later_than(end: str) -> Callable[[Any], bool]:
    return lambda answer: bool(answer["end"] > end)


def test_all_three_in_the_middle_of_a_lease(folder: Folder, tmp_path: Path) -> None:
    old = {name: PrivateKey.read(folder.key(name)) for name in NAMES}
    pinned = tmp_path / "pinned"
    shutil.copytree(folder.path / "keys", pinned)
    guest = folder.trio.guest
    lease = folder.trio.request(duration="1h")
    guest.until_state(lease, "Active")
    end = guest.get(f"/leases/{lease}")["end"]
    for name in ("guest", "broker", "site"):
        told = rotate(folder, name)
        assert (told["done"], told["number"]) == ("rotated", 1)
        assert told["identity"] == old[name].public.kid
        shown = about(folder, name)
        assert shown["kid"] == PublicKey(shown["jwk"]["x"]).kid == old[name].public.kid
        assert PublicKey(shown["key"]["x"]).kid == told["kid"] != shown["kid"]
        assert shown["lineage"] == list(PrivateKey.read(folder.key(name)).lineage)
        guest.until_state(lease, "Active")
        guest.post(f"/leases/{lease}/extend", {"by": "10m"})
        end = guest.until(f"/leases/{lease}", later_than(end))["end"]
    guest.until_state(lease, "Active")
    guest.post(f"/leases/{lease}/close", {})
    guest.until_state(lease, "Closed")
    for name in ("site", "broker"):
        folder.rest(name).until(
            f"/{name}/leases?id={lease}",
            lambda told: [one["state"] for one in told["leases"]] == ["Closed"],
        )
    # all that was signed, by the old keys and the new, is good for who pinned the site's first key
    proofs = tmp_path / "proofs.json"
    proofs.write_text(json.dumps(guest.get(f"/leases/{lease}/proofs")))
    told = run("verify", str(proofs), "--key", str(public_path(pinned / "site.jwk")))
    assert told["good"], told
    assert {one["kind"] for one in told["statements"]} >= {"claim", "root", "lease", "receipt"}
    # peers that never got the new public files, and were started again
    for name in NAMES:
        shutil.copy(public_path(pinned / f"{name}.jwk"), public_path(folder.key(name)))
    heard = [("guest", "broker"), ("guest", "site"), ("broker", "guest"), ("site", "guest")]
    heard.append(("site", "broker"))
    for again in (False, True):
        for name in NAMES if again else ():
            folder.restart(name)
        for name, peer in heard:
            assert refusal(folder, peer, old[name]) == "retired 401", (name, peer)
            assert refusal(folder, peer, PrivateKey.read(folder.key(name))) == ""
    # what was put back is made again, and makes no second key
    assert run("keys", "rotate", "site", str(folder.descriptor))["done"] == "finished"
    # who pins the newest public file refuses the key before, and never has to hear of it
    before = PrivateKey.read(folder.key("guest"))
    assert run("keys", "rotate", "guest", str(folder.descriptor))["done"] == "finished"
    assert run("keys", "rotate", "guest", str(folder.descriptor), "--again")["number"] == 2
    folder.restart("broker")
    assert refusal(folder, "broker", before) == "retired 401"
    lease = folder.trio.request(duration="1h")
    folder.restart("guest")
    guest.until_state(lease, "Active")
