"""`<mirror>` of each kind of actor, read as it is meant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from shirako.descriptor import Descriptor, read_descriptor
from shirako.ledger.mirror.place import MirrorPlace

PLACE = 'base="ou=ledgers,dc=example" user="cn=shirako,dc=example" password-file="keys/site.jwk"'
# The end of each actor's element in the sound descriptor, by its name.
ENDS = {
    "site": "</authority>",
    "broker": 'allocation="t-come"/>',
    "guest": "</service-manager>",
}


def with_mirror(site: Path, actor: str, mirror: str) -> str:
    text, end = (site / "actors.xml").read_text(), ENDS[actor]
    assert text.count(end) == 1
    if end.endswith("/>"):
        return text.replace(end, f"{end.removesuffix('/>')}>{mirror}</{actor}>")
    return text.replace(end, mirror + end)


@pytest.mark.parametrize("actor", ENDS)
def test_any_actor_may_have_one(site: Path, read: Callable[[str], Descriptor], actor: str) -> None:
    found = read(with_mirror(site, actor, f'<mirror url="ldaps://ldap.example.org" {PLACE}/>'))
    mirrors = {one.name: one.mirror for one in found.actors}
    assert mirrors.pop(actor) == MirrorPlace(
        url="ldaps://ldap.example.org",
        base="ou=ledgers,dc=example",
        user="cn=shirako,dc=example",
        password_file=site / "keys" / "site.jwk",
    )
    assert set(mirrors.values()) == {None}


@pytest.mark.parametrize(
    ("attributes", "start_tls"),
    [
        ('url="ldap://127.0.0.1:389"', False),
        ('url="ldap://[::1]"', False),
        ('url="ldap://localhost"', False),
        ('url="ldap://ldap.example.org" start-tls="true"', True),
    ],
)
def test_the_clear_is_for_this_machine_alone(
    site: Path, read: Callable[[str], Descriptor], attributes: str, start_tls: bool
) -> None:
    found = read(with_mirror(site, "site", f"<mirror {attributes} {PLACE}/>"))
    assert found.actors[0].mirror is not None
    assert found.actors[0].mirror.start_tls == start_tls


def test_the_password_is_needed_by_who_runs_the_actor_alone(site: Path) -> None:
    mirror = f'<mirror url="ldaps://ldap.example.org" {PLACE}/>'.replace("site.jwk", "none")
    (site / "actors.xml").write_text(with_mirror(site, "site", mirror))
    assert read_descriptor(site / "actors.xml", keys=False).actors[0].mirror is not None
