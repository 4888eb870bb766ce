"""Whatever is done to a descriptor, reading it gives a model or faults, never another exception."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lxml import etree

from shirako.descriptor import Descriptor, DescriptorInvalid, read_descriptor

Edit = Callable[[etree._Element, st.DataObject], None]

TRICKY = """0|1/0|1e999999999|-1|1|99999999999999999999999|1e9|nan|true|2h|site|broker
guest|far|node.small|t-ssh
t-fit|keys/site.jwk|/|..|keys|\u00e9|http://[|http://[::1]:1|https://a:0|http://\u2100:1|2026-01-01T00:00:00Z
9999-12-31T23:59:59-12:00|0001-01-01T00:00:00+01:00| ||\U0001f600|\u0661"""
LEGAL = st.characters(
    codec="utf-8", exclude_categories=["Cc", "Cs", "Cn"], exclude_characters="\ufffe\uffff"
)
WORDS = st.one_of(
    st.sampled_from(["\n", *TRICKY.replace("\n", "|").split("|")]), st.text(LEGAL, max_size=70)
)
NAMES = st.one_of(
    st.sampled_from(
        ["name", "type", "to", "from", "units", "count", "prefix", "key", "url", "role", "for",
         "start", "end", "overbooking", "assignment", "unit", "pool", "driver", "edge", "lease",
         "peer", "broker", "authority", "actors", "ssh-key", "zebra", "a_b", "a-b"]
    ),
    st.from_regex(r"[a-z][a-z_-]{0,9}", fullmatch=True),
)  # fmt: skip


def elements(root: etree._Element) -> list[etree._Element]:
    return list(root.iter(etree.Element))


def delete(root: etree._Element, data: st.DataObject) -> None:
    victims = elements(root)[1:]
    if victims:
        victim = data.draw(st.sampled_from(victims))
        parent = victim.getparent()
        assert parent is not None
        parent.remove(victim)


def duplicate(root: etree._Element, data: st.DataObject) -> None:
    element = copy.deepcopy(data.draw(st.sampled_from(elements(root))))
    data.draw(st.sampled_from(elements(root))).append(element)


def rename(root: etree._Element, data: st.DataObject) -> None:
    element = data.draw(st.sampled_from(elements(root)))
    space = data.draw(st.sampled_from(["{urn:shirako:actors:1}", "{urn:other}", ""]))
    element.tag = space + data.draw(NAMES)


def fill(root: etree._Element, data: st.DataObject) -> None:
    data.draw(st.sampled_from(elements(root))).text = data.draw(WORDS)


def drop_attribute(root: etree._Element, data: st.DataObject) -> None:
    element = data.draw(st.sampled_from(elements(root)))
    if element.attrib:
        del element.attrib[data.draw(st.sampled_from(sorted(map(str, element.attrib))))]


def alter_attribute(root: etree._Element, data: st.DataObject) -> None:
    element = data.draw(st.sampled_from(elements(root)))
    if element.attrib:
        name = data.draw(st.sampled_from(sorted(map(str, element.attrib))))
        element.set(name, data.draw(WORDS))


def add_attribute(root: etree._Element, data: st.DataObject) -> None:
    space = data.draw(st.sampled_from(["", "", "{urn:other}", "{urn:shirako:actors:1}"]))
    element = data.draw(st.sampled_from(elements(root)))
    element.set(space + data.draw(NAMES), data.draw(WORDS))


EDITS: list[Edit] = [
    delete, duplicate, rename, fill, drop_attribute, alter_attribute, add_attribute,
]  # fmt: skip


def attempt(file: Path) -> Descriptor | DescriptorInvalid:
    try:
        return read_descriptor(file)
    except DescriptorInvalid as invalid:
        return invalid


relaxed = settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@relaxed
@given(data=st.data())
def test_mutants_are_read_or_refused(site: Path, data: st.DataObject) -> None:
    file = site / "mutant.xml"
    root = etree.fromstring((site / "actors.xml").read_bytes())
    for edit in data.draw(st.lists(st.sampled_from(EDITS), min_size=1, max_size=6)):
        edit(root, data)
    text = etree.tostring(root)
    file.write_bytes(text)
    found = attempt(file)
    if isinstance(found, DescriptorInvalid):
        assert found.faults
        lines = [fault.line for fault in found.faults]
        assert lines == sorted(lines)
        assert 1 <= lines[0] <= lines[-1] <= text.count(b"\n") + 1
        assert all(fault.message and fault.mend for fault in found.faults)
    else:
        assert found == attempt(file)


@relaxed
@given(data=st.data())
def test_torn_bytes_are_read_or_refused(site: Path, data: st.DataObject) -> None:
    file = site / "torn.xml"
    text = (site / "actors.xml").read_bytes()
    at = data.draw(st.integers(0, len(text)))
    to = min(len(text), at + data.draw(st.integers(0, 40)))
    file.write_bytes(text[:at] + data.draw(st.binary(max_size=20)) + text[to:])
    assert isinstance(attempt(file), Descriptor | DescriptorInvalid)


@pytest.mark.parametrize("attribute", ['colour="red"', 'from="Site"'])
def test_each_of_thousands_of_faults_is_told(site: Path, attribute: str) -> None:
    edges = "".join(f"<edge {attribute} to='b{n}'/>\n" for n in range(5_000))
    text = (site / "actors.xml").read_text().replace("</actors>", f"{edges}</actors>")
    (site / "actors.xml").write_text(text)
    found = attempt(site / "actors.xml")
    assert isinstance(found, DescriptorInvalid)
    assert {fault.line for fault in found.faults} == set(range(34, 5_034))
