"""Drivers and policies: that they are installed, can be loaded, and take the options given."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points

from lxml import etree
from pydantic import BaseModel, ValidationError

from shirako.descriptor.document import Document
from shirako.descriptor.grammar import children, describe, local_name
from shirako.descriptor.model import Fault
from shirako.descriptor.structure import suggest

GROUPS = {
    "allocation": "shirako.policies.allocation",
    "assignment": "shirako.policies.assignment",
    "demand": "shirako.policies.demand",
    "driver": "shirako.drivers",
    "guest-driver": "shirako.guest_drivers",
}
"""Entry point group of each kind of plug-in, by the element that names one."""

POLICIES = {"pool": "assignment", "broker": "allocation", "service-manager": "demand"}
"""The one policy of an element: an attribute or, where it has options, a child of that name."""


def own_attributes(element: etree._Element, *apart: str) -> dict[str, str]:
    """All attributes but those `apart`, dashes turned to underscores."""
    return {
        name.replace("-", "_"): value
        for name, value in zip(map(str, element.keys()), map(str, element.values()), strict=True)
        if name not in apart
    }


def check_plugins(document: Document) -> Iterator[Fault]:
    check = _Check(document)
    for element in document.root.iter():
        kind = local_name(element)
        if kind in POLICIES:
            yield from check.one_policy(element, POLICIES[kind])
            name = element.get(POLICIES[kind])
            if name is not None:
                yield from check.plugin(element, POLICIES[kind], name, {})
        if kind in GROUPS:
            name = element.get("name")
            if name is not None:
                yield from check.plugin(element, kind, name, own_attributes(element, "name"))
        if kind in GROUPS or kind in ("unit", "units"):
            yield from _ambiguous(document, element)


def _ambiguous(document: Document, element: etree._Element) -> Iterator[Fault]:
    spellings: dict[str, str] = {}
    for name in map(str, element.attrib):
        other = spellings.setdefault(name.replace("-", "_"), name)
        if other != name:
            yield document.fault(
                element,
                f"{describe(element)} has both {other!r} and {name!r}, which mean the same",
                "leave the one with dashes",
            )


class _Check:
    """Looks each plug-in up, and loads it, once in the reading of a descriptor."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._found: dict[str, dict[str, EntryPoint]] = {}
        self._loaded: dict[tuple[str, str], object | Exception] = {}

    def one_policy(self, element: etree._Element, kind: str) -> Iterator[Fault]:
        long = children(element, kind)
        short = element.get(kind)
        if short is None and not long:
            yield self._document.fault(
                element,
                f"{describe(element)} names no {kind} policy",
                f'add {kind}="NAME": {suggest("", self._installed(kind))}',
            )
        for extra in long if short is not None else long[1:]:
            yield self._document.fault(
                extra,
                f"{describe(element)} names more than one {kind} policy",
                f'leave one: {kind}="NAME", or <{kind} name="NAME" .../> where it has options',
            )

    def plugin(
        self, element: etree._Element, kind: str, name: str, options: dict[str, str]
    ) -> Iterator[Fault]:
        installed = self._installed(kind)
        label = f"{describe(element)}: {kind} {name!r}"
        if local_name(element) == kind:
            label = describe(element)
        if name not in installed:
            what = f"{kind} policy" if kind in POLICIES.values() else kind
            yield self._document.fault(
                element, f"there is no {what} {name!r}", suggest(name, installed)
            )
            return
        point = installed[name]
        loaded = self._load(kind, point)
        if isinstance(loaded, Exception):
            yield self._document.fault(
                element,
                f"{label} cannot be loaded: {type(loaded).__name__}: {str(loaded)[:300]}",
                f"install or repair what provides it, {point.value}",
            )
        else:
            yield from self._options(element, label, getattr(loaded, "Options", None), options)

    def _installed(self, kind: str) -> dict[str, EntryPoint]:
        if kind not in self._found:
            points = entry_points(group=GROUPS[kind])
            self._found[kind] = {point.name: point for point in points}
        return self._found[kind]

    def _load(self, kind: str, point: EntryPoint) -> object | Exception:
        key = kind, point.name
        if key not in self._loaded:
            try:
                self._loaded[key] = point.load()
            except Exception as error:  # a third party's module may raise anything on import
                self._loaded[key] = error
        return self._loaded[key]

    def _options(
        self, element: etree._Element, label: str, model: object, options: dict[str, str]
    ) -> Iterator[Fault]:
        if model is None:
            for name in options:
                yield self._document.fault(
                    element,
                    f"{label} takes no options, but is given {_dashed(name)!r}",
                    "remove it",
                )
            return
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            yield self._document.fault(
                element,
                f"{label} is broken: its Options is no pydantic model",
                "tell the author of the plug-in",
            )
            return
        try:
            model.model_validate(options, context={"base": self._document.path.parent})
        except ValidationError as error:
            known = {_dashed(field.alias or name) for name, field in model.model_fields.items()}
            for one in error.errors(include_url=False, include_input=False):
                place = _dashed(str(one["loc"][0])) if one["loc"] else ""
                message, mend = _option_fault(one["type"], place, one["msg"], known)
                yield self._document.fault(element, f"{label} {message}", mend)
        except Exception as error:  # a validator of a third party's
            yield self._document.fault(
                element,
                f"{label}: its options cannot be checked: {type(error).__name__}: "
                f"{str(error)[:300]}",
                "see the plug-in's documentation",
            )


def _option_fault(kind: str, place: str, said: str, known: set[str]) -> tuple[str, str]:
    """Message and mend; the value stays out of both, for it may be a secret."""
    if kind == "extra_forbidden":
        return f"has no option {place!r}", suggest(place, known)
    if kind == "missing":
        return f"needs option {place!r}", f'add {place}="..."'
    plain = said.removeprefix("Value error, ")
    if not place:
        return f"has options that do not fit: {plain}", "see the plug-in's documentation"
    return f"has a bad option {place!r}: {plain}", f"write {place} as the plug-in expects it"


def _dashed(name: str) -> str:
    return name.replace("_", "-")
