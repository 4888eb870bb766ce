"""A sound descriptor becomes the model, word for word."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from shirako.descriptor import (
    AuthoritySpec,
    BrokerSpec,
    DelegationSpec,
    DemandSpec,
    Descriptor,
    DescriptorInvalid,
    Edge,
    PeerSpec,
    Plugin,
    ServiceManagerSpec,
    UnitSpec,
    read_descriptor,
)


def test_the_whole_model(site: Path) -> None:
    found = read_descriptor(site / "actors.xml")
    assert (found.path, found.state, found.skew) == (site / "actors.xml", site / "run/state", 30)
    authority, broker, guest = found.actors
    assert isinstance(authority, AuthoritySpec)
    small, big = authority.pools
    assert (authority.name, authority.role, authority.line) == ("site", "authority", 4)
    assert authority.key == site / "keys/site.jwk"
    assert (small.type, small.properties, small.line) == (
        "node.small",
        {"machine.memory": "2GB"},
        5,
    )
    assert (small.setup_timeout, small.teardown_timeout, small.attempts) == (300.0, 90.0, 4)
    assert small.assignment == Plugin(name="t-fit", options={}, line=5)
    assert small.drivers == (
        Plugin(name="t-ssh", options={"admin_key": "keys/admin", "tries": "7"}, line=8),
    )
    first = {"host": "10.231.0.11", "port": "22", "host_key": "ssh-ed25519 AAAA"}
    assert small.units == (
        UnitSpec(name="n1", attributes=first, line=9),
        *(UnitSpec(name=f"m{n}", attributes={"rack": "r1"}, line=10) for n in (1, 2, 3)),
    )
    assert big.assignment == Plugin(name="t-spread", options={"racks": "2"}, line=13)
    assert (big.setup_timeout, big.teardown_timeout, big.attempts) == (300.0, 120.0, 3)
    assert (small.probe, big.probe) == (90.0, 300.0)
    assert authority.delegations == (
        DelegationSpec(
            name="share",
            to="broker",
            type="node.small",
            units=4,
            start=datetime(2026, 1, 1, tzinfo=UTC),
            end=datetime(2027, 1, 1, tzinfo=UTC),
            overbooking=1.0,
            line=17,
        ),
        DelegationSpec(
            name="loose",
            to="broker",
            type="node.big",
            units=1,
            start=None,
            end=None,
            overbooking=2.5,
            line=19,
        ),
    )
    assert isinstance(broker, BrokerSpec)
    assert broker.allocation == Plugin(name="t-come", options={}, line=21)
    assert isinstance(guest, ServiceManagerSpec)
    assert (guest.url, guest.demand.name) == ("http://[::1]:7703", "t-static")
    assert guest.guest_drivers == (Plugin(name="t-guest", options={"join": "join.sh"}, line=23),)
    assert guest.leases[0] == DemandSpec(
        name="first",
        slice="blue",
        type="node.small",
        units=2,
        duration=timedelta(hours=2),
        start=None,
        renew=True,
        ssh_keys=(site / "keys/me.pub",),
        line=24,
    )
    assert (guest.leases[1].renew, guest.leases[1].duration) == (False, timedelta(minutes=90))
    assert guest.leases[1].start == datetime(2026, 5, 1, tzinfo=UTC)
    assert found.peers == (
        PeerSpec(
            name="far",
            role="authority",
            url="https://far.example.org:7701",
            key=site / "keys/far.pub.jwk",
            line=30,
        ),
    )
    assert found.edges == (
        Edge(source="site", target="broker", line=31),
        Edge(source="broker", target="guest", line=32),
        Edge(source="far", target="broker", line=33),
    )


def test_the_model_is_frozen_and_slotted(site: Path) -> None:
    found = read_descriptor(site / "actors.xml")
    for value in (found, found.actors[0], found.peers[0], found.edges[0]):
        assert not hasattr(value, "__dict__")
    with pytest.raises(FrozenInstanceError):
        found.skew = 1  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        found.edges[0].line = 1  # type: ignore[misc]


def test_reading_twice_gives_equal_models(site: Path) -> None:
    assert read_descriptor(site / "actors.xml") == read_descriptor(site / "actors.xml")


def test_a_relative_path(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(site)
    assert read_descriptor(Path("actors.xml")).state == Path("run/state")


def test_absent_keys_matter_only_where_keys_are_asked_for(site: Path) -> None:
    for file in (site / "keys").iterdir():
        file.unlink()
    assert len(read_descriptor(site / "actors.xml", keys=False).actors) == 3
    with pytest.raises(DescriptorInvalid) as caught:
        read_descriptor(site / "actors.xml")
    assert [fault.line for fault in caught.value.faults] == [4, 21, 22, 25, 30]


SCHEMA_HINT = (
    'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
    'xsi:schemaLocation="urn:shirako:actors:1 http://127.0.0.1:1/actors.xsd"'
)
NEXT_SHARE = (
    '<delegation name="next" to="broker" type="node.small" units="4" start="2027-01-01T00:00:00Z"/>'
)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('<?xml version="1.0" encoding="UTF-8"?>\n', ""),
        ('<?xml version="1.0" encoding="UTF-8"?>\n', "\ufeff"),
        ('<?xml version="1.0" encoding="UTF-8"?>', "<?editor wrap?><!-- <!DOCTYPE x> -->"),
        ('skew="30s"', SCHEMA_HINT),
        (' skew="30s"', ""),
        ('renew="true"', 'renew="false"'),
        ("127.0.0.1:7702", "localhost:7702"),
        ('attempts="4"', 'attempts=" 4 "'),
        ('probe="90s"', 'probe="1h30m"'),
        ('value="2GB"', 'value=""'),
        ('value="2GB"', 'value="&lt;2 &amp; \u00e9&#10;"'),
        # the second share begins where the first ends
        ('<delegation name="loose"', NEXT_SHARE + '<delegation name="loose"'),
    ],
)  # fmt: skip
def test_other_ways_to_be_sound(
    read: Callable[[str], Descriptor], site: Path, old: str, new: str
) -> None:
    text = (site / "actors.xml").read_text()
    assert old in text
    assert len(read(text.replace(old, new)).actors) == 3


@pytest.mark.parametrize("text", ["off", " off ", "0", "0s"])
def test_units_that_are_not_looked_at(
    read: Callable[[str], Descriptor], site: Path, text: str
) -> None:
    found = read((site / "actors.xml").read_text().replace('probe="90s"', f'probe="{text}"'))
    authority = found.actors[0]
    assert isinstance(authority, AuthoritySpec)
    assert [pool.probe for pool in authority.pools] == [0.0, 300.0]


def test_a_prefix_for_the_namespace(read: Callable[[str], Descriptor], site: Path) -> None:
    text = (site / "actors.xml").read_text()
    prefixed = text.replace("</", "</s:").replace("xmlns=", "xmlns:s=")
    prefixed = re.sub(r"<(?=[a-z])", "<s:", prefixed)
    assert read(prefixed).edges == read(text).edges


def test_a_thousand_units_of_one_line(read: Callable[[str], Descriptor], site: Path) -> None:
    text = (site / "actors.xml").read_text().replace('count="3"', 'count="1000"')
    authority = read(text).actors[0]
    assert isinstance(authority, AuthoritySpec)
    assert [unit.name for unit in authority.pools[0].units[-2:]] == ["m999", "m1000"]
