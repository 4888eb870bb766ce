"""`shirako site revoke`, `renew`, `drain`, `undrain`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

WORDS = ("--to", "broker", "--type", "node", "--units", "4", "--start", "+400d", "--for", "30d")
"""After all that other tests delegate: nobody's units are in the way."""


@contextmanager
def delegated(cli: Any, name: str) -> Iterator[dict[str, str]]:
    """A delegation of the test's own, revoked in the end; who may revoke it."""
    ops: dict[str, str] = cli.at("site", "ops")
    cli("site", "delegate", name, *WORDS, **ops)
    try:
        yield ops
    finally:
        cli("site", "revoke", name, "--yes", **ops)


def left(cli: Any, name: str, ops: dict[str, str]) -> Any:
    found = {one["name"]: one for one in cli.json("site", "delegations", **ops)}
    return found[name]["left"]


def test_nothing_is_taken_back_unasked(cli: Any) -> None:
    with delegated(cli, "spring") as ops:
        told = cli("site", "revoke", "spring", "--units", "1", status=1, **ops)
        assert "nothing has changed; --dry-run shows what it would mean, --yes goes on" in told
        told = cli("site", "revoke", "spring", "--units", "1", "--dry-run", **ops)
        assert "1 of 4 units left, before 4" in told
        assert "4 delegated before, 1 after" in told
        assert "nothing has changed" in told
        assert left(cli, "spring", ops) is None


def test_it_shrinks_grows_and_is_gone(cli: Any) -> None:
    with delegated(cli, "summer") as ops:
        for units in ("1", "3", "4", "0"):
            done = cli.json("site", "revoke", "summer", "--units", units, "--yes", **ops)
            assert done["delegations"][0]["left"] == int(units)
            assert left(cli, "summer", ops) == int(units)
        told = cli("site", "delegations", **ops)
        assert "0 of 4" in told
        assert "the site has revoked summer" in told
        sales = cli.at("broker", "sales")
        assert "summer" in cli("broker", "delegations", **sales)


def test_giving_back_is_not_asked_about(cli: Any) -> None:
    with delegated(cli, "autumn") as ops:
        cli("site", "revoke", "autumn", "--units", "1", "--yes", **ops)
        cli("site", "revoke", "autumn", "--units", "2", **ops)
        assert left(cli, "autumn", ops) == 2


def test_it_goes_on_by_another_one(cli: Any) -> None:
    with delegated(cli, "winter") as ops:
        made = cli.json("site", "renew", "winter", "--for", "30d", **ops)[0]
        assert (made["name"], made["renews"], made["units"]) == ("winter.2", "winter", 4)
        again = cli.json("site", "renew", "winter", "--until", made["end"], **ops)[0]
        assert again == made
        later = cli.json("site", "renew", "winter", "--for", "30d", "--units", "2", **ops)[0]
        assert (later["start"], later["renews"]) == (made["end"], "winter.2")
        assert "renews winter.2" in cli("site", "delegations", **ops)
        cli("site", "renew", "winter", status=2, **ops)
        told = cli("site", "renew", "winter", "--until", "+420d", status=1, **ops)
        assert "goes on for longer already: revoke it to shorten it" in told


def test_wrong_names_and_numbers_are_told(cli: Any) -> None:
    ops = cli.at("site", "ops")
    assert "no such delegation" in cli("site", "revoke", "nothing", "--yes", status=1, **ops)
    assert "there is no delegation" in cli(
        "site", "renew", "nothing", "--for", "1d", status=1, **ops
    )
    assert "leave 0 to 3" in cli("site", "revoke", "share", "--units", "9", status=1, **ops)
    cli("site", "revoke", "share", "--units", "-1", status=2, **ops)
    assert "no such unit" in cli("site", "undrain", "nothing", status=1, **ops)
    assert "no node nothing" in cli("site", "drain", "nothing", "--dry-run", status=1, **ops)


def test_a_node_is_drained_and_back(cli: Any) -> None:
    ops = cli.at("site", "ops")
    assert cli("site", "drain", "n3", "--dry-run", **ops).startswith("n3 ")
    assert not cli("site", "nodes", "--state", "drained", **ops).startswith("NODE")
    cli("site", "drain", "n3", "--reason", "a new disk", **ops)
    told = cli("site", "nodes", "--state", "drained", **ops)
    assert "drained: a new disk" in told
    assert cli.json("site", "undrain", "n3", **ops)["drained"] == ""
    assert "drained" not in cli("site", "nodes", **ops)
