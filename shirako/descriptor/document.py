"""From bytes to a tree of elements that can say where each of them begins.

Two parsers read the file. expat goes first, because it can stop at a DOCTYPE before any entity is
declared, and knows where a start tag begins (libxml2 only knows where it ends). libxml2 builds the
tree that the schema is checked against.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast
from xml.parsers import expat

from lxml import etree

from shirako.descriptor.grammar import NAMESPACE
from shirako.descriptor.model import DescriptorInvalid, Fault

MAX_BYTES = 4 * 1024 * 1024
# The validator's time grows with the square of the faulty siblings: some 10 s at this many. And
# libxml2 keeps 16 bits for the number of a line: see `check_structure`.
MAX_ELEMENTS = 20_000

# libxml2's own words are for those who write parsers.
_SYNTAX: dict[str, tuple[str | None, str]] = {
    "ERR_DOCUMENT_EMPTY": ("this is not XML", "begin the file with <actors ...>"),
    "ERR_DOCUMENT_END": (
        "something follows the end of the root element",
        "let one </actors> be the last line, and all else before it",
    ),
    "ERR_UNDECLARED_ENTITY": (None, "write & as &amp;, and < as &lt;"),
    "ERR_NAME_REQUIRED": ("a bare & is not XML", "write & as &amp;"),
    "ERR_ENTITYREF_SEMICOL_MISSING": ("a bare & is not XML", "write & as &amp;"),
    "ERR_LT_IN_ATTRIBUTE": ("a bare < in an attribute, or a missing quote", "write < as &lt;"),
    "ERR_ATTRIBUTE_NOT_STARTED": ("an attribute has no quotes", 'write name="value"'),
    "ERR_ATTRIBUTE_REDEFINED": (None, "leave one of the two"),
    "ERR_SPACE_REQUIRED": (
        "attributes are not apart",
        'write name="value" name="value", with a space between and a quote at both ends',
    ),
    "ERR_TAG_NAME_MISMATCH": (None, "close each element with its own name, the inner one first"),
    "ERR_TAG_NOT_FINISHED": (None, "close the element with </...>, or end its tag with />"),
    "ERR_COMMENT_NOT_FINISHED": ("a comment does not end", "end it with -->"),
    "NS_ERR_UNDEFINED_NAMESPACE": (None, "take the prefix away"),
}
_MEND_XML = "mend the XML there; one such mistake hides those after it"


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file. Checks may mend the tree as their faults advise; `lines` stays true."""

    path: Path
    root: etree._Element
    lines: Mapping[etree._Element, int]

    def fault(self, element: etree._Element, message: str, mend: str) -> Fault:
        return Fault(path=self.path, line=self.lines[element], message=message, mend=mend)


class Complaint(NamedTuple):
    """An entry of libxml2's error log."""

    type_name: str
    line: int
    message: str


def complaints(log: object) -> list[Complaint]:
    # lxml's stubs know of no way to look into a log.
    return [
        Complaint(entry.type_name, entry.line, entry.message)
        for entry in cast("Iterable[Any]", log)
    ]


def open_document(path: Path) -> Document:
    """Read and parse `path`. Raises `DescriptorInvalid` when there is no tree to be had."""
    data = _read(path)
    starts = _Starts(path)
    complaint = starts.read(data)
    root = _parse(path, data)
    if complaint is not None:
        raise complaint
    # A list first: lxml makes elements anew, with another identity, unless someone holds them.
    elements = list(root.iter())
    return Document(path, root, dict(zip(elements, starts.lines, strict=True)))


def _invalid(path: Path, line: int, message: str, mend: str) -> DescriptorInvalid:
    return DescriptorInvalid((Fault(path=path, line=line, message=message, mend=mend),))


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise _invalid(path, 1, "there is no such file", "check the path") from None
    except IsADirectoryError:
        raise _invalid(path, 1, "this is a folder", f"name a file, as {path}/actors.xml") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise _invalid(path, 1, f"cannot be read: {reason}", "check path and rights") from None
    if len(data) > MAX_BYTES:
        raise _invalid(
            path,
            1,
            f"the file is larger than {MAX_BYTES // 1024**2} MiB",
            'write many units of a kind as one <units prefix="n" count="100"/>',
        )
    if not data.strip():
        raise _invalid(path, 1, "the file is empty", "begin it with <actors ...>")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _invalid(path, line, "this is not UTF-8", "save the file as UTF-8") from None
    return data


class _Starts:
    """The line of each start tag, in document order; refuses a DOCTYPE where it stands."""

    def __init__(self, path: Path) -> None:
        self.lines: list[int] = []
        self._path = path
        self._parser = expat.ParserCreate("utf-8")
        self._parser.StartDoctypeDeclHandler = self._refuse_doctype
        self._parser.StartElementHandler = self._note_start

    def read(self, data: bytes) -> DescriptorInvalid | None:
        """Raises `DescriptorInvalid` for what must not reach another parser; returns the rest."""
        try:
            self._parser.Parse(data, True)
        except expat.ExpatError as error:
            reason = expat.ErrorString(error.code)
            return _invalid(self._path, error.lineno, f"this is not XML: {reason}", _MEND_XML)
        return None

    def _refuse_doctype(self, *_declaration: object) -> None:
        raise _invalid(
            self._path,
            self._parser.CurrentLineNumber,
            "a DOCTYPE is refused: it can declare entities that grow without end or read files",
            "remove the DOCTYPE and write what its entities stand for",
        )

    def _note_start(self, name: str, attributes: Mapping[str, str]) -> None:
        if len(self.lines) == MAX_ELEMENTS:
            raise _invalid(
                self._path,
                self._parser.CurrentLineNumber,
                f"more than {MAX_ELEMENTS} elements",
                'write many units of a kind as one <units prefix="n" count="100"/>',
            )
        self.lines.append(self._parser.CurrentLineNumber)
        for one in (name, *attributes):
            if one.count(":") > 1:
                self._refuse_name(one, "has more than one colon")
        for one, value in attributes.items():
            if one.split(":")[0] == "xmlns" and ("{" in value or "}" in value):
                self._refuse_name(value, "is no namespace: it has braces")

    def _refuse_name(self, name: str, why: str) -> None:
        """What one of our parsers takes, and the other one makes trees of that it can not read."""
        raise _invalid(
            self._path,
            self._parser.CurrentLineNumber,
            f"{name[:60]!r} {why}",
            f'take it away: no name needs it, and the namespace is xmlns="{NAMESPACE}"',
        )


def _parse(path: Path, data: bytes) -> etree._Element:
    parser = etree.XMLParser(
        encoding="utf-8",
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )
    try:
        return etree.fromstring(data, parser)
    except etree.XMLSyntaxError as error:
        # The parser's log: that of the exception holds what other parsers of the process met too.
        first = next(iter(complaints(parser.error_log)), None)
        if first is None:
            first = Complaint("", error.lineno or 1, error.msg)
        plain, mend = _SYNTAX.get(first.type_name, (None, _MEND_XML))
        message = plain or f"this is not XML: {first.message.strip()}"
        raise _invalid(path, max(first.line, 1), message, mend) from None
