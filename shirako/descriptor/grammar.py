"""The form of `actors.xml` as its schema states it: which names are allowed where, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

from lxml import etree

NAMESPACE = "urn:shirako:actors:1"
_XS = "{http://www.w3.org/2001/XMLSchema}"


@dataclass(frozen=True, slots=True)
class Attribute:
    type: str
    required: bool
    default: str | None


@dataclass(frozen=True, slots=True)
class Form:
    """One kind of element: its own attributes (others too, if `is_open`) and its children."""

    attributes: Mapping[str, Attribute]
    children: tuple[str, ...]
    is_open: bool


@dataclass(frozen=True, slots=True)
class Grammar:
    schema: etree.XMLSchema
    root: str
    forms: Mapping[str, Form]
    """By local name of the element."""
    wording: Mapping[str, str]
    """By name of a simple type: what to write, to follow the word "write"."""

    def parents(self, child: str) -> list[str]:
        return [name for name, form in self.forms.items() if child in form.children]

    def default(self, element: str, attribute: str) -> str:
        default = self.forms[element].attributes[attribute].default
        if default is None:
            raise KeyError(f"attribute {attribute} of {element} has no default in the schema")
        return default


def load_grammar() -> Grammar:
    text = resources.files("shirako.descriptor").joinpath("actors.xsd").read_bytes()
    tree = etree.fromstring(text)
    return Grammar(
        schema=etree.XMLSchema(tree),
        root=value_of(next(tree.iterchildren(f"{_XS}element")), "name"),
        forms={value_of(kind, "name"): _form(kind) for kind in tree.iter(f"{_XS}complexType")},
        wording={
            value_of(kind, "name"): (kind.findtext(f".//{_XS}documentation") or "").strip()
            for kind in tree.iter(f"{_XS}simpleType")
        },
    )


def _form(kind: etree._Element) -> Form:
    return Form(
        attributes={
            value_of(one, "name"): Attribute(
                value_of(one, "type"), one.get("use") == "required", one.get("default")
            )
            for one in kind.iter(f"{_XS}attribute")
        },
        children=tuple(value_of(one, "name") for one in kind.iter(f"{_XS}element")),
        is_open=kind.find(f"{_XS}anyAttribute") is not None,
    )


def value_of(element: etree._Element, name: str) -> str:
    """An attribute that is known to be there; raises `KeyError` when it is not."""
    value = element.get(name)
    if value is None:
        raise KeyError(f"{element.tag} without {name}")
    return value


def local_name(element: etree._Element) -> str:
    return etree.QName(element).localname


def children(element: etree._Element, *names: str) -> list[etree._Element]:
    """The children of these names, in the order of the file."""
    return list(element.iterchildren(*(f"{{{NAMESPACE}}}{name}" for name in names)))


def describe(element: etree._Element) -> str:
    """The element in a sentence: `broker 'east'`, `edge site -> east`, `<units>`."""
    kind = local_name(element)
    if kind == "edge":
        return f"edge {element.get('from', '?')} -> {element.get('to', '?')}"
    name = element.get({"pool": "type", "units": "prefix"}.get(kind, "name"))
    return f"<{kind}>" if name is None else f"{kind} {name[:60]!r}"
