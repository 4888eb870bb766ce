"""Elements and attributes against the schema, in sentences.

The schema's validator stops at the first stranger among the children of an element, and looks at
nothing after it. So that every fault is found at once, each fault is mended in the tree as its
advice says (a misspelt name is put right, a stranger is removed), and the tree is checked again
until nothing new turns up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches

from lxml import etree

from shirako.descriptor.document import Complaint, Document, complaints
from shirako.descriptor.grammar import NAMESPACE, Form, Grammar, describe, local_name
from shirako.descriptor.model import Fault

_XSI = "{http://www.w3.org/2001/XMLSchema-instance}"
# Editors find the schema by these two; the validator is given ours and does not follow them.
_SCHEMA_HINTS = frozenset({f"{_XSI}schemaLocation", f"{_XSI}noNamespaceSchemaLocation"})
# Likeness takes long to compute, and a long list is not read.
_MAX_COMPARED = 200
_MAX_LISTED = 20
_ATTRIBUTE = re.compile(r"attribute '([^']*)'")
_NO_SUCH_ATTRIBUTE = frozenset({"SCHEMAV_CVC_COMPLEX_TYPE_3_2_1", "SCHEMAV_CVC_COMPLEX_TYPE_3_2_2"})
_CONTENT = frozenset({"SCHEMAV_CVC_COMPLEX_TYPE_2_1", "SCHEMAV_CVC_COMPLEX_TYPE_2_3"})


def check_structure(document: Document, grammar: Grammar) -> list[Fault]:
    """Every fault of form; afterwards the tree holds known names alone (values may be bad)."""
    return _Structure(document, grammar).check()


def suggest(name: str, known: Iterable[str]) -> str:
    """`did you mean x? Known: x, y` for the mend of an unknown name."""
    names = sorted(known)
    near = get_close_matches(name, names[:_MAX_COMPARED], n=1)
    listed = f"known are {', '.join(names[:_MAX_LISTED])}" if names else "there are none"
    if len(names) > _MAX_LISTED:
        listed += f" and {len(names) - _MAX_LISTED} more"
    return f"did you mean {near[0]}? {listed}" if near else listed


class _Structure:
    def __init__(self, document: Document, grammar: Grammar) -> None:
        self._document = document
        self._grammar = grammar
        self._mended = True
        """Whether the tree was changed since the validator last saw it."""
        self._reported: set[tuple[etree._Element, str, str]] = set()

    def check(self) -> list[Fault]:
        root = self._document.root
        faults = [*self._root(root), *self._namespaces(root), *self._foreign_attributes(root)]
        while self._mended:
            # The validator names a line for each complaint. That of the file may be the line of
            # many elements; a number of its own in the place of it tells which one is meant.
            elements = list(root.iter())
            for number, element in enumerate(elements, 1):
                element.sourceline = number  # type: ignore[assignment] # the stubs say `...`
            if self._grammar.schema.validate(root):
                break
            self._mended = False
            for error in complaints(self._grammar.schema.error_log):
                faults += self._explain(elements[error.line - 1], error)
        return faults

    def _root(self, root: etree._Element) -> Iterator[Fault]:
        if local_name(root) != self._grammar.root:
            yield self._document.fault(
                root,
                f"the root element is <{local_name(root)}>",
                f'let it be <{self._grammar.root} xmlns="{NAMESPACE}" ...>',
            )
            root.tag = etree.QName(etree.QName(root).namespace, self._grammar.root).text

    def _namespaces(self, root: etree._Element) -> Iterator[Fault]:
        """Takes elements of the root's wrong namespace as ours, and removes other strangers."""
        astray = etree.QName(root).namespace
        if astray != NAMESPACE:
            yield self._document.fault(
                root,
                f"the namespace is {astray or 'missing'}",
                f'write <{self._grammar.root} xmlns="{NAMESPACE}" ...>',
            )
        for element in list(root.iter()):
            namespace = etree.QName(element).namespace
            if namespace == NAMESPACE:
                continue
            if namespace != astray:
                yield self._document.fault(
                    element,
                    f"<{local_name(element)}> is of namespace {namespace or 'none'}",
                    f"write it without a prefix and without xmlns, so that it is of {NAMESPACE}",
                )
            element.tag = f"{{{NAMESPACE}}}{local_name(element)}"

    def _foreign_attributes(self, root: etree._Element) -> Iterator[Fault]:
        for element in root.iter():
            for name in list(map(str, element.attrib)):
                if name.startswith("{"):
                    if name not in _SCHEMA_HINTS:
                        yield self._document.fault(
                            element,
                            f"{describe(element)} has an attribute of another namespace: {name}",
                            "remove it",
                        )
                    del element.attrib[name]

    def _explain(self, element: etree._Element, error: Complaint) -> Iterator[Fault]:
        kind = error.type_name
        named = _ATTRIBUTE.search(error.message)
        attribute = named[1] if named else ""
        key = (element, kind, attribute)
        parent = element.getparent()
        removed = parent is None and element is not self._document.root
        if removed or key in self._reported:
            return
        self._reported.add(key)
        if kind == "SCHEMAV_ELEMENT_CONTENT":
            yield from self._strangers(element if parent is None else parent)
        elif kind in _CONTENT:
            yield from self._strangers(element)
            yield from self._text(element)
        elif kind in _NO_SUCH_ATTRIBUTE:
            yield from self._unknown_attribute(element, attribute)
        elif kind == "SCHEMAV_CVC_COMPLEX_TYPE_4":
            yield from self._missing_attribute(element, attribute)
        elif attribute:
            yield from self._bad_value(element, attribute)
        else:
            plain = error.message.replace(f"{{{NAMESPACE}}}", "")
            yield self._document.fault(
                element, plain, "see the schema, shirako/descriptor/actors.xsd"
            )

    def _form(self, element: etree._Element) -> Form:
        return self._grammar.forms[local_name(element)]

    def _strangers(self, parent: etree._Element) -> Iterator[Fault]:
        allowed = self._form(parent).children
        for child in list(parent):
            name = local_name(child)
            if name in allowed:
                continue
            homes = self._grammar.parents(name)
            near = [] if homes else get_close_matches(name, allowed, n=1)
            yield self._document.fault(
                child,
                f"<{name}> is not allowed in {describe(parent)}",
                _advice_for_stranger(homes, near, allowed),
            )
            self._mended = True
            if near:
                child.tag = f"{{{NAMESPACE}}}{near[0]}"
            else:
                parent.remove(child)

    def _text(self, element: etree._Element) -> Iterator[Fault]:
        parts = [element.text, *(child.tail for child in element)]
        text = " ".join(part.strip() for part in parts if part and part.strip())
        if text:
            yield self._document.fault(
                element,
                f"{describe(element)} holds text: {text[:40]!r}",
                "all is said in attributes: remove the text, or put it in <!-- a comment -->",
            )
        self._mended = True
        element.text = None
        for child in element:
            child.tail = None

    def _unknown_attribute(self, element: etree._Element, name: str) -> Iterator[Fault]:
        attributes = self._form(element).attributes
        near = get_close_matches(
            name, [one for one in attributes if one not in element.attrib], n=1
        )
        yield self._document.fault(
            element, f"{describe(element)} has no attribute {name!r}", suggest(name, attributes)
        )
        value = element.attrib.pop(name)
        if near:
            self._mended = True
            element.set(near[0], value)

    def _missing_attribute(self, element: etree._Element, name: str) -> Iterator[Fault]:
        if name in element.attrib:
            return  # put right since, from a misspelt one
        form = self._form(element)
        near = get_close_matches(
            name, [one for one in map(str, element.attrib) if one not in form.attributes], n=1
        )
        wording = self._grammar.wording[form.attributes[name].type]
        hint = f"did you mean it by {near[0]!r}? " if near else ""
        yield self._document.fault(
            element, f"{describe(element)} needs attribute {name!r}", f"{hint}write {wording}"
        )

    def _bad_value(self, element: etree._Element, name: str) -> Iterator[Fault]:
        value = element.attrib[name]
        wording = self._grammar.wording[self._form(element).attributes[name].type]
        yield self._document.fault(
            element, f"{describe(element)}: {name} is {value[:60]!r}", f"write {wording}"
        )


def _advice_for_stranger(homes: list[str], near: list[str], allowed: tuple[str, ...]) -> str:
    listed = ", ".join(f"<{name}>" for name in allowed)
    here = f"allowed here: {listed}" if allowed else "it holds no elements"
    if homes:
        return f"it belongs in {' or '.join(f'<{name}>' for name in homes)}; {here}"
    return f"did you mean <{near[0]}>? {here}" if near else f"remove it; {here}"
