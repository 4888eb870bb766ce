"""Changes documents a little: JSON and XML as what they are, anything else as bytes.

All chance comes from the `Random` that is given, so that a case can be made again from a number.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any
from xml.sax.saxutils import escape

Path = tuple[Any, ...]

NUMBERS: tuple[int | float, ...] = (
    *(0, -1, 1, 2, 59, 100, 255, 65536, 10**9, 2**31, 2**53, 2**63 - 1, 2**63, 2**64, 10**30),
    *(-(2**63), 253_402_300_799, 253_402_300_800, 0.5, -0.0, 1e15, 1e308, 5e-324),
)
TEXTS: tuple[str, ...] = (
    *("", " ", "a", "A", "x" * 41, "x" * 65, "x" * 257, "x" * 5000, "0", "-1", "1e9", "null"),
    *("\x00", "\n", "a\nb", "\r\n", "\x7f", "\x1b[31m", "\u2028", "\ud800", "\udfff", "é", "🦊"),
    *("../../etc/passwd", "/", "a/b", "..", "$(id)", "`id`", "'", '"', "; id", "%s%n", "{{7*7}}"),
    *("{{ unit.__class__ }}", "{0.__class__}", "*)(uid=*", "cn=a,dc=b", "<a/>", "&lt;", "a.b.c"),
    *("http://[", "https://a:99999", "file:///etc/passwd", "local://site", "javascript:x"),
    *("2026-12-01T10:00:00Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:60Z", "1h30m", "9" * 400),
)
_PIT = b"[" * 20_000 + b"]" * 20_000
SIMPLE: tuple[Any, ...] = (None, True, False, [], {}, [[]], [None], {"": None}, "", 0)


def changed(document: Any, others: Sequence[Any], chance: Random, times: int) -> Any:
    """A JSON document with `times` changes; `others` lend parts of theirs."""
    made = copy.deepcopy(document)
    for _ in range(times):
        made = copy.deepcopy(_once(made, others, chance))  # no part of it in two places
    return made


def _once(document: Any, others: Sequence[Any], chance: Random) -> Any:
    path = chance.choice(list(_paths(document)))
    if not path:
        return copy.deepcopy(chance.choice((*SIMPLE, document, chance.choice(others))))
    holder, last = at(document, path[:-1]), path[-1]
    old = holder[last]
    match chance.randrange(10):
        case 0:
            del holder[last]
        case 1:
            holder[last] = copy.deepcopy(chance.choice(SIMPLE))
        case 2:
            other = chance.choice(others)
            holder[last] = copy.deepcopy(at(other, chance.choice(list(_paths(other)))))
        case 3:
            holder[last] = copy.deepcopy(at(document, chance.choice(list(_paths(document)))))
        case 4 if isinstance(old, list) and old:
            old.extend(copy.deepcopy(old) * chance.choice((1, 1, 2, 70)))
        case 4 | 5 if isinstance(holder, dict):
            holder[chance.choice((*TEXTS, "is", "n", "term", "units"))] = old
        case 6:
            holder[last] = _deep(old, chance.choice((1, 3, 9)))
        case _:
            holder[last] = _another(old, chance)
    return document


def _another(old: Any, chance: Random) -> Any:
    """A value of the same kind, most often."""
    if isinstance(old, bool):
        return not old
    if isinstance(old, int | float):
        near = (old - 1, old + 1, -old, old * 2, old + 3600, old - 86_400)
        return chance.choice((*near, *NUMBERS))
    if isinstance(old, str):
        return chance.choice(TEXTS) if chance.random() < 0.5 else _edited(old, chance)
    if isinstance(old, list) and old:
        return chance.sample(old, len(old))
    return copy.deepcopy(chance.choice((*NUMBERS, *TEXTS, *SIMPLE)))


def _edited(text: str, chance: Random) -> str:
    at = chance.randrange(len(text) + 1)
    match chance.randrange(4):
        case 0:
            return text[:at]
        case 1:
            return text[:at] + chance.choice(TEXTS) + text[at:]
        case 2:
            return (
                text[:at]
                + chr(chance.choice((0, 10, 32, 47, 65, 95, 255, 0x2028)))
                + text[at + 1 :]
            )
        case _:
            return text + text


def _deep(value: Any, levels: int) -> Any:
    for _ in range(levels):
        value = [value]
    return value


def _paths(document: Any, above: Path = ()) -> Iterator[Path]:
    yield above
    if len(above) > 40:
        return
    if isinstance(document, dict):
        for name, value in document.items():
            yield from _paths(value, (*above, name))
    elif isinstance(document, list):
        for number, value in enumerate(document):
            yield from _paths(value, (*above, number))


def at(document: Any, path: Path) -> Any:
    """The part of a document that a path leads to."""
    for step in path:
        document = document[step]
    return document


def garbled(data: bytes, chance: Random, times: int) -> bytes:
    """Bytes with `times` changes: flipped, cut, put in, doubled."""
    made = bytearray(data)
    for _ in range(times):
        where = chance.randrange(len(made) + 1)
        length = chance.choice((1, 1, 2, 4, 16, 64))
        match chance.randrange(6):
            case 0 if where < len(made):
                made[where] ^= 1 << chance.randrange(8)
            case 1:
                del made[where : where + length]
            case 2:
                made[where:where] = chance.randbytes(length)
            case 3:
                made[where:where] = made[where : where + length] * chance.choice((1, 3, 200))
            case 4:
                made[where:where] = chance.choice(TEXTS).encode(errors="surrogatepass")
            case _:
                made[where : where + length] = bytes((chance.randrange(256),)) * length
    return bytes(made)


Change = Callable[[bytes, Sequence[bytes], Random], bytes]


def change_bytes(data: bytes, others: Sequence[bytes], chance: Random) -> bytes:
    """Of anything."""
    if chance.random() < 0.1:
        other = chance.choice(others)
        cut = chance.randrange(len(data) + 1)
        data = data[:cut] + other[chance.randrange(len(other) + 1) :]
    return garbled(data, chance, 1 + chance.randrange(4))


def change_json(data: bytes, others: Sequence[bytes], chance: Random) -> bytes:
    """Of JSON; of what is none any more, the bytes."""
    if chance.random() < 0.05:
        return change_bytes(data, others, chance)
    try:
        document = json.loads(data)
        lent = json.loads(chance.choice(others))
    except (ValueError, RecursionError):
        return change_bytes(data, others, chance)
    made = json.dumps(changed(document, [lent], chance, 1 + chance.randrange(3))).encode()
    # deeper than anything that reads by recursion goes: as text, for we read by recursion, too
    return made.replace(b"null", _PIT, 1) if chance.random() < 0.02 else made


_ATTRIBUTE = re.compile(r'([\w:-]+)="([^"]*)"')


def change_xml(data: bytes, others: Sequence[bytes], chance: Random) -> bytes:
    """Of XML that has one tag a line: attributes and lines, most often; else the bytes."""
    text = data.decode(errors="replace")
    for _ in range(1 + chance.randrange(3)):
        attributes, lines = list(_ATTRIBUTE.finditer(text)), text.splitlines(keepends=True)
        at = chance.randrange(len(lines) + 1)
        match chance.randrange(8):
            case 0:
                return change_bytes(data, others, chance)
            case 1:
                lines[at : at + 1] = []
            case 2 if lines:
                lines.insert(at, chance.choice(lines))
            case _ if attributes:
                one = chance.choice(attributes)
                text = text[: one.start()] + _attribute(one, attributes, chance) + text[one.end() :]
                continue
        text = "".join(lines)
    return text.encode(errors="replace")


def _attribute(one: re.Match[str], others: Sequence[re.Match[str]], chance: Random) -> str:
    """Another one in the place of `one`: its name or its value, from the others or made up."""
    name, value = one.groups()
    lent = chance.choice(others)
    match chance.randrange(5):
        case 0:
            return ""
        case 1:
            return f'{chance.choice((lent[1], name + "x", "a:b", "xmlns"))}="{value}"'
        case 2:
            return f'{name}="{lent[2]}"'
        case 3:
            return f'{name}="{escape(_edited(value, chance))}"'
        case _:
            made_up = (str(chance.choice(NUMBERS)), chance.choice(TEXTS))
            return f'{name}="{escape(chance.choice(made_up))}"'
