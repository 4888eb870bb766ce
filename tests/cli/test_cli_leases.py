"""The commands of guests, site admins and broker admins, against actors that run."""

from __future__ import annotations

import json
import re
import signal
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.real

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA0YhSZf0B1mFl1k2fRZ6rRkW2cX0cX0cX0cX0cX0cX0 me"
ASK = ("lease", "request", "--slice", "blue", "--type", "node", "--for", "1h")


@pytest.fixture
def ann(cli: Any) -> Any:
    return cli.at("guest", "ann")


@pytest.fixture(autouse=True)
def _clear(cli: Any) -> Any:
    """End what a test has left, so that the next one finds all units."""
    yield
    for name in ("ann", "bob"):
        guest = cli.at("guest", name)
        for lease in cli.json("lease", "list", **guest):
            if not lease["final"]:
                cli("lease", "close", lease["id"], **guest)
    ops = cli.at("site", "ops")
    for _ in range(200):
        if all(lease["final"] for lease in cli.json("site", "leases", **ops)):
            return
        time.sleep(0.05)


def test_a_lease_from_request_to_closed(cli: Any, ann: Any, tmp_path: Path) -> None:
    (tmp_path / "id.pub").write_text(f"# mine\n{KEY}\n")
    process = cli.start(
        *ASK,
        "--units",
        "2",
        "--ssh-key",
        str(tmp_path / "id.pub"),
        "--config",
        "a=b=c",
        "--wait",
        **ann,
    )
    out, progress = process.communicate(timeout=60)
    assert process.returncode == 0, progress
    for state in ("Ticketing", "Ticketed", "Redeeming", "Active", "has joined"):
        assert state in progress
    lease = re.search(r"^lease +(\w+)$", out, re.M).group(1)  # type: ignore[union-attr]
    assert re.search(r"^ends .*Z \(.*\d\d:\d\d:\d\d CES?T\), in (1h|5\dm)", out, re.M)
    assert re.search(r"^n1 +n1$", out, re.M)
    shown = cli.json("lease", "show", lease, "--story", **ann)
    assert shown["configuration"] == {"a": "b=c"}
    assert shown["ssh_keys"] == [KEY]
    assert shown["story"][0]["state"] == "Ticketing"
    assert lease in cli("lease", "list", "--state", "Active", **ann)
    assert "Ticketing" in cli("lease", "show", lease, "--story", **ann)
    assert cli("lease", "close", lease, **ann).startswith(lease)
    told = cli("lease", "watch", lease, **ann)
    assert re.search(r"^state +Closed$", told, re.M)


def test_asking_twice_with_one_key_is_one_lease(cli: Any, ann: Any) -> None:
    first = cli(*ASK, "--key", "k1", **ann)
    assert cli(*ASK, "--key", "k1", **ann) == first
    assert "another request" in cli(*ASK, "--units", "2", "--key", "k1", status=1, **ann)


def test_a_refused_request_says_what_would_work(cli: Any, ann: Any) -> None:
    process = cli.start(*ASK, "--units", "50", "--wait", **ann)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert re.search(r"^state +Failed$", out, re.M)
    assert re.search(r"^would work +3 units$", out, re.M)
    told = cli.json(*ASK, "--units", "50", "--wait", status=1, **ann)
    assert (told["state"], told["offer"]["units"]) == ("Failed", 3)


def test_extending_prints_the_granted_end_and_the_cap(cli: Any, ann: Any) -> None:
    lease = cli.json(*ASK, "--wait", **ann)
    told = cli("lease", "extend", lease["id"], "--for", "1h", **ann)
    assert re.search(r"^ends .*in (2h|1h5\dm)", told, re.M)
    assert "has not delegated them to the broker for longer" in told
    old = datetime.fromisoformat(lease["end"])
    answer = cli.json("lease", "extend", lease["id"], "--for", "1h", **ann)
    assert datetime.fromisoformat(answer["new_end"]) == old + timedelta(hours=2)
    refused = cli("lease", "extend", lease["id"], "--for", "900d", status=1, **ann)
    assert "the latest possible end is" in refused
    assert "nothing has changed" in refused
    members = cli.json("lease", "extend", lease["id"], "--for", "900d", status=1, **ann)
    assert (members["cap"], members["new_end"]) == ("delegation", answer["new_end"])
    least = (old + timedelta(hours=3)).isoformat()
    until = (old + timedelta(days=900)).isoformat()
    some = cli.json("lease", "extend", lease["id"], "--until", until, "--at-least", least, **ann)
    assert some["new_end"] == some["latest_end"] == members["latest_end"]
    shorter = cli("lease", "extend", lease["id"], "--until", least, status=1, **ann)
    assert "never shortens" in shorter


def test_ctrl_c_while_waiting_leaves_the_lease_and_says_how_to_go_on(cli: Any, ann: Any) -> None:
    process = cli.start(*ASK[:5], "slow", "--for", "1h", "--wait", **ann)
    line = process.stderr.readline()
    lease = line.split()[1]
    while "Redeeming" not in line:
        line = process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=20)
    assert process.returncode == 130
    assert f"shirako lease watch {lease}" in error
    assert "Traceback" not in error
    assert cli.json("lease", "show", lease, **ann)["state"] == "Redeeming"


def test_guests_do_not_see_each_other(cli: Any, ann: Any) -> None:
    lease = cli(*ASK, **ann).strip()
    bob = cli.at("guest", "bob")
    assert lease not in cli("lease", "list", **bob)
    for words in (("show",), ("watch",), ("close",), ("extend", "--for", "1h"), ("ssh",)):
        told = cli("lease", words[0], lease, *words[1:], status=1, **bob)
        assert "there is no such lease" in told


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--for", "2"), "has no unit"),
        (("--for", "soon"), "not readable"),
        (("--for", "1h", "--until", "+2h"), "say how long"),
        ((), "say how long"),
        (("--until", "2030-01-01T10:00"), "names no time zone"),
        (("--until", "tomorrow"), "is not a time"),
        (("--for", "1h", "--units", "0"), "units: "),
        (("--for", "1h", "--least", "5"), "least_units: no more than units"),
        (("--for", "1h", "--slice", "Blue"), "slice: a lower-case letter"),
        (("--for", "1h", "--ssh-key", "/none"), "No such file"),
        (("--for", "1h", "--config", "x"), "is not NAME=VALUE"),
        (("--for", "1h", "--url", "localhost"), "begins with http"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_asked(
    cli: Any, ann: Any, words: tuple[str, ...], says: str
) -> None:
    told = cli("lease", "request", "--slice", "blue", "--type", "node", *words, status=2, **ann)
    assert says in told


def test_a_private_key_never_leaves(cli: Any, ann: Any, tmp_path: Path) -> None:
    key = tmp_path / "id"
    key.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    assert "is a private key" in cli(*ASK, "--ssh-key", str(key), status=2, **ann)


def test_what_only_the_actor_knows_is_told_with_its_field(cli: Any, ann: Any) -> None:
    assert "start: in the past" in cli(*ASK, "--start", "2020-01-01T00:00Z", status=1, **ann)
    told = cli.json(*ASK, "--broker", "nobody", status=1, **ann)
    assert (told["status"], told["field"]) == (422, "broker")


# The site and the broker ---------------------------------------------------------------------


def test_a_site_admins_day(cli: Any, ann: Any) -> None:
    lease = cli.json(*ASK, "--wait", **ann)["id"]
    ops = cli.at("site", "ops")
    nodes = {one["name"]: one for one in cli.json("site", "nodes", **ops)}
    assert (nodes["n1"]["state"], nodes["n1"]["lease"]["id"]) == ("leased", lease)
    assert re.search(rf"^n1 +node +leased +{lease} +guest +blue", cli("site", "nodes", **ops), re.M)
    assert "n1" not in cli("site", "nodes", "--state", "free", **ops)
    assert re.search(rf"^{lease} .* Active .* n1", cli("site", "leases", **ops), re.M)
    assert "nothing was touched" in cli("site", "story", lease, **ops)
    cli("site", "close", lease, "--reason", "maintenance", **ops)
    watched = cli.json("lease", "watch", lease, **ann)
    assert "maintenance" in watched["reason"]
    assert "not CloseFailed" in cli("site", "retry", lease, status=1, **ops)
    assert cli("site", "release", "n1", **ops) == "n1 free\n"
    assert "no lease" in cli("site", "close", "none", status=1, **ops)
    assert "your token is for a guest" in cli(
        "site", "nodes", status=1, **{**ops, "SHIRAKO_TOKEN": ann["SHIRAKO_TOKEN"]}
    )


def test_delegating_once_and_again(cli: Any) -> None:
    ops = cli.at("site", "ops")
    words = ("site", "delegate", "more", "--to", "broker", "--type", "node", "--units", "1")
    until = "2096-01-01T00:00Z"
    assert "term lasts at most" not in cli(*words, "--for", "1d", **ops)
    assert "its term differs" in cli(*words, "--until", until, status=1, **ops)
    assert "share" in cli("site", "delegations", **ops)
    too_many = ("site", "delegate", "x", "--to", "broker", "--type", "node", "--units", "99")
    assert "the pool has 4" in cli(*too_many, "--for", "1d", status=1, **ops)
    sales = cli.at("broker", "sales")
    names = {one["name"] for one in cli.json("broker", "delegations", **sales)}
    assert names >= {"share", "slow"}


def test_a_brokers_calendar_and_tickets(cli: Any, ann: Any) -> None:
    lease = cli.json(*ASK, "--units", "3", "--wait", **ann)["id"]
    sales = cli.at("broker", "sales")
    told = cli.json("broker", "calendar", **sales)["calendar"]
    share = next(one for one in told if one["delegation"] == "share")
    assert max(step["booked"] for step in share["steps"]) == 3
    assert "####################  3/3" in cli("broker", "calendar", **sales)
    assert re.search(rf"^{lease} .* Ticketed .* share", cli("broker", "leases", **sales), re.M)


# Signed statements ---------------------------------------------------------------------------


def test_the_proofs_of_a_lease_and_the_ledgers_verify_offline(
    cli: Any, ann: Any, tmp_path: Path
) -> None:
    lease = cli.json(*ASK, "--wait", **ann)["id"]
    cli("lease", "close", lease, **ann)
    cli("lease", "watch", lease, **ann)
    proofs = cli("lease", "proofs", lease, **ann)
    file = tmp_path / "proofs.json"
    file.write_text(proofs)
    site_key = str(cli.folder / "keys" / "site.pub.jwk")
    told = cli.json("verify", str(file), "--key", site_key)
    kinds = [one["kind"] for one in told["statements"]]
    assert [kinds.count(kind) for kind in ("claim", "lease", "receipt")] == [2, 1, 1]
    assert "you trust" in cli("verify", str(file), "--key", site_key)
    other = str(cli.folder / "keys" / "broker.pub.jwk")
    assert "none that you trust" in cli("verify", str(file), "--key", other, status=1)
    ledger = cli.folder / "state" / "site.sqlite"
    assert cli.json("verify", str(ledger))["statements"][0]["entries"] > 5


# Reaching an actor ---------------------------------------------------------------------------


def test_where_to_go_comes_from_options_environment_or_file(cli: Any, ann: Any) -> None:
    assert "which actor?" in cli("lease", "list", status=2)
    cli("lease", "list", "--url", ann["SHIRAKO_URL"], "--token", ann["SHIRAKO_TOKEN"])
    config = cli.folder / "config" / "shirako" / "client.toml"
    config.parent.mkdir(parents=True)
    ops = cli.at("site", "ops")
    config.write_text(
        f'url = "{ann["SHIRAKO_URL"]}"\ntoken = "{ann["SHIRAKO_TOKEN"]}"\n'
        f'[site]\nurl = "{ops["SHIRAKO_URL"]}"\ntoken = "{ops["SHIRAKO_TOKEN"]}"\n'
    )
    try:
        cli.json("lease", "list")
        assert len(cli.json("site", "nodes")) == 5
        config.write_text("url = ")
        assert "client.toml" in cli("lease", "list", status=2)
    finally:
        config.unlink()
        config.parent.rmdir()


def test_a_wrong_token_is_told_and_how_to_get_one(cli: Any, ann: Any) -> None:
    told = cli("lease", "list", "--token", "shk_wrong", status=1, **ann)
    assert "token" in told
    problem = cli.json("lease", "list", "--token", "shk_wrong", status=1, **ann)
    assert problem["status"] == 401


@pytest.mark.parametrize(
    "words",
    [("lease", "list"), ("lease", "watch", "x"), ("site", "nodes"), ("broker", "calendar"), ASK],
)
def test_an_actor_that_is_not_there_is_told_in_a_line(
    cli: Any, ann: Any, words: tuple[str, ...]
) -> None:
    process = cli.start(*words, "--url", "http://127.0.0.1:9", **ann)
    out, error = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert "can not be reached" in error
    assert len(error.splitlines()) == 1


def test_what_answers_there_may_be_no_actor(cli: Any, ann: Any, tmp_path: Path) -> None:
    import threading
    from http.server import HTTPServer, SimpleHTTPRequestHandler

    class Odd(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>hello</html>")

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = HTTPServer(("127.0.0.1", 0), Odd)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        assert "not understood" in cli("lease", "list", "--url", url, status=1, **ann)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_json_of_listings_is_a_list_also_when_empty(cli: Any) -> None:
    bob = cli.at("guest", "bob")
    assert cli.json("lease", "list", "--state", "Active", **bob) == []
    assert json.loads(cli("lease", "list", "--slice", "none", "--json", **bob)) == []
    assert cli("lease", "list", "--slice", "none", **bob) == "none\n"
