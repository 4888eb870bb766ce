"""Each mistake: where it is told, in which words, and that nothing else is told with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from joserfc.jwk import ECKey

from shirako.descriptor import Descriptor, DescriptorInvalid, Fault, read_descriptor
from shirako.descriptor.document import MAX_BYTES, MAX_ELEMENTS

Faults = Callable[[str], tuple[Fault, ...]]


class Mistake(NamedTuple):
    old: str
    new: str
    line: int
    message: str
    mend: str


def mistakes() -> dict[str, Mistake]:
    """The blocks of `faults.txt`, by name; its head tells their form."""
    blocks = (Path(__file__).parent / "faults.txt").read_text().strip().split("\n\n")
    found: dict[str, Mistake] = {}
    for block in blocks[2:]:
        name, *edit, told, mend = block.split("\n")
        old = "\n".join(line[2:] for line in edit if line.startswith("-"))
        new = "\n".join(line[2:] for line in edit if line.startswith("+"))
        line, _, message = told.partition(": ")
        found[name] = Mistake(old, new, int(line), message, mend.removeprefix("mend: "))
    return found


MISTAKES = mistakes()


def agree(said: str, expected: str) -> bool:
    if expected.endswith("..."):
        return said.startswith(expected.removesuffix("..."))
    return said == expected


@pytest.mark.parametrize("name", MISTAKES)
def test_one_mistake_one_fault(faults: Faults, site: Path, name: str) -> None:
    mistake = MISTAKES[name]
    text = (site / "actors.xml").read_text()
    assert text.count(mistake.old) == 1, "what is replaced must be in the sound descriptor, once"
    found = faults(text.replace(mistake.old, mistake.new))
    assert [fault.line for fault in found] == [mistake.line], "\n".join(map(str, found))
    assert agree(found[0].message, mistake.message), found[0].message
    assert agree(found[0].mend, mistake.mend), found[0].mend
    assert found[0].path == site / "actors.xml"


def replaced(site: Path, *pairs: tuple[str, str]) -> str:
    text = (site / "actors.xml").read_text()
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new)
    return text


def told(found: tuple[Fault, ...]) -> list[tuple[int, str]]:
    return [(fault.line, fault.message) for fault in found]


def test_delegations_without_an_edge(faults: Faults, site: Path) -> None:
    found = faults(replaced(site, ('<edge from="site" to="broker"/>', "")))
    assert told(found) == [
        (17, "delegation 'share': no edge joins 'site' and 'broker'"),
        (19, "delegation 'loose': no edge joins 'site' and 'broker'"),
    ]
    assert found[0].mend == 'add <edge from="site" to="broker"/>'


def test_a_type_that_nobody_offers(faults: Faults, site: Path) -> None:
    far, bog = '<edge from="far" to="broker"/>', 'type="node.big" units="1" for'
    found = faults(replaced(site, (far, ""), (bog, bog.replace("big", "bog"))))
    assert told(found) == [
        (27, "lease 'later': no broker that 'guest' can reach is delegated type 'node.bog'")
    ]
    assert "did you mean node.big?" in found[0].mend


def test_a_type_that_a_peer_may_offer_is_no_fault(
    read: Callable[[str], Descriptor], site: Path
) -> None:
    bog = 'type="node.big" units="1" for'
    assert read(replaced(site, (bog, bog.replace("big", "gpu")))).edges


def test_brokers_below_brokers(
    read: Callable[[str], Descriptor], faults: Faults, site: Path, make_key: Callable[..., object]
) -> None:
    make_key(site / "keys/lower.jwk")
    far, guest = '<edge from="far" to="broker"/>', '<edge from="broker" to="guest"/>'
    lower = (
        '<broker name="lower" url="http://127.0.0.1:7704" key="keys/lower.jwk"'
        ' allocation="t-come"/><edge from="broker" to="lower"/><edge from="lower" to="guest"/>'
    )
    chain = replaced(site, (far, ""), (guest, lower))
    loop = chain.replace(lower, lower + '<edge from="lower" to="broker"/>')
    assert len(read(chain).edges) == 3
    assert told(faults(loop)) == [(32, "edge lower -> broker is already there, at line 32")]


def test_no_actor(faults: Faults) -> None:
    found = faults('<actors xmlns="urn:shirako:actors:1" state="s"/>')
    assert told(found) == [(1, "no actor runs here")]


def test_every_fault_is_told_at_once(faults: Faults, site: Path) -> None:
    """Also those behind a misspelt element, inside it, and after it among its siblings."""
    found = faults(
        replaced(
            site,
            ('<pool type="node.small"', '<pol type="Node"'),
            ('    </pool>\n    <pool type="node.big"', '    </pol>\n    <pool type="node.big"'),
            ('tries="7"', 'tries="many" speed="9"'),
            ('host="10.231.0.11" port="22"', 'port="0"'),
            ('units="1" overbooking', 'units="9" overbooking'),
            ("http://127.0.0.1:7702", "gopher://x"),
            ('slice="blue" type="node.small"', 'type="node.small" shade="1"'),
            ('for="2h"', 'for="2 hours"'),
            ('role="authority"', ""),
            ('<edge from="far"', '<zebra/><quagga/><edge from="fare"'),
        )
    )
    assert [fault.line for fault in found] == [
        5,
        5,
        8,
        8,
        9,
        17,
        19,
        21,
        24,
        24,
        24,
        30,
        33,
        33,
        33,
    ]
    assert [fault.line for fault in found] == sorted(fault.line for fault in found)


def test_a_fault_is_where_its_tag_begins(faults: Faults, site: Path) -> None:
    long = '<edge\n\n\nfrom="site"\n\nto="brokre"\n/>'
    found = faults(replaced(site, ('<edge from="site" to="broker"/>', long)))
    assert found[0].line == 31


def test_lines_beyond_sixteen_bits(faults: Faults, site: Path) -> None:
    found = faults(replaced(site, ('<edge from="site"', "\n" * 70_000 + '<edge from="siet"')))
    assert [fault.line for fault in found] == [31 + 70_000]


def test_two_sites_that_share_a_machine(faults: Faults, site: Path) -> None:
    found = faults(
        replaced(site, ("127.0.0.1:7702", "127.0.0.1:7701"), ("[::1]:7703", "localhost:7701"))
    )
    assert [fault.line for fault in found] == [21, 22]


def test_an_option_value_is_never_told(faults: Faults, site: Path) -> None:
    found = faults(
        replaced(site, ('tries="7"', 'tries="hunter2"'), ('racks="2"', 'racks="hunter2"'))
    )
    assert len(found) == 2
    assert "hunter2" not in "".join(map(str, found))


# Key files


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not a JWK: it is not JSON"),
        ("[" * 20_000, "is not a JWK: it is not JSON"),
        ("[1]", "is not a JWK: it has no 'kty'"),
        ('{"keys": []}', "is not a JWK: it has no 'kty'"),
        ('{"kty": "oct", "k": "AAAA"}', "is of the wrong kind: not OKP with curve Ed25519"),
        ('{"kty": "OKP", "crv": "X25519", "x": "AAAA"}', "is of the wrong kind"),
        ('{"kty": "OKP", "crv": "Ed25519"}', "is not a JWK: 'x' or 'd' is no Ed25519 key"),
        ('{"kty": "OKP", "crv": "Ed25519", "x": "AAAA"}', "'x' or 'd' is no Ed25519 key"),
        ('{"kty": "OKP", "crv": "Ed25519", "x": "\u00e9", "d": 7}', "'x' or 'd' is no Ed25519 key"),
        (json.dumps(ECKey.generate_key("P-256").as_dict(private=True)), "is of the wrong kind"),
    ],
)
def test_key_files_that_are_none(site: Path, content: str, message: str) -> None:
    (site / "keys/site.jwk").write_text(content)
    (fault,) = invalid(site)
    assert fault.line == 4
    assert message in fault.message
    assert fault.mend == (f"delete it and make it with: shirako keys {site / 'actors.xml'}")


def invalid(site: Path, *, keys: bool = True) -> tuple[Fault, ...]:
    with pytest.raises(DescriptorInvalid) as caught:
        read_descriptor(site / "actors.xml", keys=keys)
    return caught.value.faults


def test_a_key_whose_halves_differ(site: Path) -> None:
    one = json.loads((site / "keys/site.jwk").read_text())
    other = json.loads((site / "keys/broker.jwk").read_text())
    (site / "keys/site.jwk").write_text(json.dumps(one | {"x": other["x"]}))
    (fault,) = invalid(site)
    assert "its 'x' does not belong to its 'd'" in fault.message
    assert one["d"] not in str(fault)


def test_a_key_that_others_may_read(site: Path) -> None:
    file = site / "keys/guest.jwk"
    file.chmod(0o640)
    for keys in (True, False):
        (fault,) = invalid(site, keys=keys)
        assert (fault.line, fault.mend) == (22, f"chmod 600 {file}")
        assert fault.message.endswith("can be read by others")


def test_a_missing_key_names_the_command(site: Path) -> None:
    (site / "keys/broker.jwk").unlink()
    (fault,) = invalid(site)
    assert fault.line == 21
    assert fault.mend == f"make it with: shirako keys {site / 'actors.xml'}"


def test_a_folder_for_a_key(site: Path) -> None:
    (site / "keys/broker.jwk").unlink()
    (site / "keys/broker.jwk").mkdir()
    (fault,) = invalid(site)
    assert "Is a directory" in fault.message


def test_public_and_private_are_not_mixed_up(site: Path, make_key: Callable[..., object]) -> None:
    make_key(site / "keys/site.jwk", private=False)
    make_key(site / "keys/far.pub.jwk")
    own, peer = invalid(site)
    assert "holds a public key alone" in own.message
    assert "holds the peer's private key" in peer.message


def test_one_key_for_two_actors(site: Path) -> None:
    (site / "keys/broker.jwk").write_text((site / "keys/site.jwk").read_text())
    (fault,) = invalid(site)
    assert told((fault,)) == [
        (21, "broker 'broker' has the same key as authority 'site', at line 4")
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("-----BEGIN OPENSSH PRIVATE KEY-----\n", "holds a private key"),
        ("hello\n", "holds no SSH public key"),
        ("ssh-ed25519\n", "holds no SSH public key"),
        ("", "holds no SSH public key"),
    ],
)
def test_ssh_keys_that_are_none(site: Path, content: str, message: str) -> None:
    (site / "keys/me.pub").write_text(content)
    (fault,) = invalid(site)
    assert fault.line == 25
    assert message in fault.message


# Files that are no descriptor


INCLUSION = (
    b'<actors xmlns="urn:shirako:actors:1" state="s">'
    b'<xi:include xmlns:xi="http://www.w3.org/2001/XInclude" href="/etc/passwd"/></actors>'
)
BOMB = "".join(f'<!ENTITY a{n + 1} "{f"&a{n};" * 10}">' for n in range(12))

DOCUMENTS: dict[str, tuple[bytes, int, str]] = {
    "empty": (b"", 1, "the file is empty"),
    "blank": (b" \n\n", 1, "the file is empty"),
    "text": (b"hello", 1, "this is not XML"),
    "JSON": (b'{"actors": []}', 1, "this is not XML"),
    "latin-1": (b"<actors>\n<!-- \xe9 -->\n</actors>", 2, "this is not UTF-8"),
    "UTF-16": ("<actors/>".encode("utf-16"), 1, "this is not UTF-8"),
    "too large": (b"<actors>" + b" " * MAX_BYTES, 1, "the file is larger than 4 MiB"),
    "too many elements": (
        b"<actors>\n" + b"<x/>" * MAX_ELEMENTS + b"</actors>",
        2,
        "more than 20000 elements",
    ),
    "too deep": (b"<a>" * 5000 + b"</a>" * 5000, 1, "this is not XML"),
    "open": (b"<actors>\n<edge>\n", 3, "Premature end"),
    "crossed": (
        b"<actors>\n<edge>\n</actors>",
        3,
        "Opening and ending tag mismatch: edge line 2 and actors",
    ),
    "two roots": (b"<actors/>\n<actors/>", 2, "something follows the end"),
    "bare ampersand": (b'<actors\nstate="a & b"/>', 2, "a bare & is not XML"),
    "bare less": (b'<actors\nstate="<"/>', 2, "a bare < in an attribute"),
    "unknown entity": (b"<actors>\n&nbsp;</actors>", 2, "Entity 'nbsp' not defined"),
    "no quotes": (b"<actors state=x/>", 1, "an attribute has no quotes"),
    "attribute twice": (b'<actors state="x" state="y"/>', 1, "Attribute state redefined"),
    "no space": (b'<actors state="x"skew="1s"/>', 1, "attributes are not apart"),
    "prefix of nothing": (b"<s:actors/>", 1, "Namespace prefix s on actors is not defined"),
    "open comment": (b"<actors><!-- </actors>", 1, "a comment does not end"),
    "control character": (b"<actors>\n\x01</actors>", 2, "this is not XML"),
    "zero byte": (b"<actors>\n\x00</actors>", 2, "this is not XML"),
    "doctype": (b"<!DOCTYPE actors>\n<actors/>", 1, "a DOCTYPE is refused"),
    "doctype after a comment": (
        b"<!-- x -->\n\n<!DOCTYPE actors>\n<actors/>",
        3,
        "a DOCTYPE is refused",
    ),
    "entity bomb": (
        f'<!DOCTYPE a [<!ENTITY a0 "ha">{BOMB}]><a>&a12;</a>'.encode(),
        1,
        "a DOCTYPE is refused",
    ),
    "bomb in an attribute": (
        f'<!DOCTYPE a [<!ENTITY a0 "ha">{BOMB}]><a x="&a12;"/>'.encode(),
        1,
        "a DOCTYPE is refused",
    ),
    "external entity": (
        b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>',
        1,
        "a DOCTYPE is refused",
    ),
    "external DTD": (
        b'<!DOCTYPE a SYSTEM "http://127.0.0.1:1/a.dtd"><a/>',
        1,
        "a DOCTYPE is refused",
    ),
    "parameter entity": (
        b'<!DOCTYPE a [<!ENTITY % x SYSTEM "file:///etc/passwd"> %x;]><a/>',
        1,
        "a DOCTYPE is refused",
    ),
    "broken behind a doctype": (b"<!DOCTYPE a><a>", 1, "a DOCTYPE is refused"),
    "inclusion": (
        INCLUSION,
        1,
        "<include> is of namespace",
    ),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_that_are_no_descriptor(site: Path, name: str) -> None:
    content, line, message = DOCUMENTS[name]
    (site / "actors.xml").write_bytes(content)
    fault = invalid(site)[0]
    assert fault.line == line
    assert message in fault.message
    assert fault.mend


def test_no_file_and_a_folder(site: Path) -> None:
    with pytest.raises(DescriptorInvalid, match="there is no such file"):
        read_descriptor(site / "absent.xml")
    with pytest.raises(DescriptorInvalid, match="this is a folder"):
        read_descriptor(site)
    with pytest.raises(DescriptorInvalid, match="cannot be read"):
        read_descriptor(site / "a\0b")
    with pytest.raises(DescriptorInvalid, match="Not a directory"):
        read_descriptor(site / "actors.xml" / "x")


def test_another_root(faults: Faults, site: Path) -> None:
    found = faults(replaced(site, ("<actors ", "<actor "), ("</actors>", "</actor>")))
    assert told(found) == [(2, "the root element is <actor>")]


def test_schema_types_cannot_be_chosen_by_the_file(faults: Faults, site: Path) -> None:
    xsi = 'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="driver"'
    found = faults(replaced(site, ('<edge from="site"', f'<edge {xsi} from="site"')))
    assert [fault.line for fault in found] == [31]
    assert "attribute of another namespace" in found[0].message


def test_the_rendered_text(faults: Faults, site: Path) -> None:
    """Golden: what a person reads."""
    found = faults(
        replaced(
            site,
            ("setup-timeout", "setup-timout"),
            ('units="4"', 'units="6"'),
            ('start="2026-05-01T00:00:00Z"', 'start="2026-05-01T00:00:00"'),
            ('to="guest"', 'to="gest"'),
        )
    )
    assert str(DescriptorInvalid(found)).replace(f"{site}/", "") == GOLDEN


GOLDEN = """\
actors.xml:5: pool 'node.small' has no attribute 'setup-timout'. Mend: did you mean setup-timeout? \
known are assignment, attempts, probe, setup-timeout, teardown-timeout, type.
actors.xml:17: delegations of type 'node.small' ('share') grant 6 units from \
2026-01-01T00:00:00Z, but the pool has 4. Mend: grant fewer, add units, or keep the terms apart; \
how many times they may be sold is for the attribute overbooking to say.
actors.xml:27: lease 'later': start '2026-05-01T00:00:00' needs a time zone. Mend: write it as \
2026-01-01T00:00:00Z, or end it with an offset such as +02:00.
actors.xml:32: edge broker -> gest: there is no actor 'gest'. Mend: add it (as <peer> if it runs \
elsewhere): did you mean guest? known are broker, far, guest, site."""
