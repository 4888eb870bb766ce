"""What a mirror looks like in the directory.

cn=ACTOR,BASE              shirakoMirror: the head
  ou=records
    cn=DIGEST              shirakoRecord: kind, key, body and checksum of a record
  ou=journal
    cn=NUMBER              shirakoJournal: a part of the last changes
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec
from ldap3.utils.dn import escape_rdn

from shirako.ledger import Total
from shirako.ledger.sums import record_sum

FORM = 1
"""The version of all this."""
MIRROR, RECORD, JOURNAL, FOLDER = (
    "shirakoMirror",
    "shirakoRecord",
    "shirakoJournal",
    "organizationalUnit",
)
HEAD, KIND, KEY, BODY, SUM, FOR, WRITES = (
    "shirakoHead",
    "shirakoKind",
    "shirakoKey",
    "shirakoBody",
    "shirakoSum",
    "shirakoFor",
    "shirakoWrites",
)
RECORD_ATTRIBUTES = (KIND, KEY, BODY, SUM)
PART_BYTES = 1_000_000
"""Of changes in one entry of the journal: servers take requests of some four million bytes."""


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """How far a mirror has come, and what its records add up to; as JSON."""

    form: int = FORM
    commits: int
    records: int
    record_sums: int
    links: int
    head: str
    tick: int
    """The last one that the log names."""

    @property
    def total(self) -> Total:
        return Total(self.commits, self.records, self.record_sums, self.links, self.head)

    @property
    def text(self) -> bytes:
        return msgspec.json.encode(self)

    @property
    def id(self) -> bytes:
        """What the parts of the journal that leads here are marked with."""
        return hashlib.sha256(self.text).digest()[:16]


EMPTY = Head(commits=0, records=0, record_sums=0, links=0, head="", tick=0)
"""That of a mirror to which nothing was written yet."""


def head_of(total: Total, tick: int) -> Head:
    return Head(**total._asdict(), tick=tick)


class Change(NamedTuple):
    """What is to be done to one entry of `ou=records`. Without a body it is removed."""

    cn: str
    kind: str
    key: str
    body: bytes | None

    @property
    def values(self) -> dict[str, bytes]:
        body = self.body or b""
        return {
            KIND: self.kind.encode(),
            KEY: self.key.encode(),
            BODY: body,
            SUM: b"%d" % record_sum(self.kind, self.key, body),
        }

    @property
    def size(self) -> int:
        return len(self.cn) + len(self.kind) + len(self.key) + len(self.body or b"")


def change(kind: str, key: str, body: bytes | None) -> Change:
    """The change of a record's entry that makes it as the record is."""
    return Change(cn_of(kind, key), kind, key, body)


def cn_of(kind: str, key: str) -> str:
    """What the entry of a record is called: keys are chosen by peers, and may be any text."""
    return hashlib.sha256(f"{kind}\0{key}".encode()).hexdigest()[:32]


encode_changes = msgspec.msgpack.Encoder().encode
decode_changes = msgspec.msgpack.Decoder(list[Change]).decode
decode_head = msgspec.json.Decoder(Head).decode


def parts_of(changes: Iterable[Change]) -> Iterator[list[Change]]:
    """In portions that fit into one entry of the journal; there is at least one."""
    part: list[Change] = []
    size = 0
    for one in changes:
        if part and size + one.size > PART_BYTES:
            yield part
            part, size = [], 0
        part.append(one)
        size += one.size
    yield part


class Names:
    """The DNs of one actor's mirror."""

    def __init__(self, base: str, actor: str) -> None:
        self.head = f"cn={escape_rdn(actor)},{base}"
        self.records = f"ou=records,{self.head}"
        self.journal = f"ou=journal,{self.head}"

    def record(self, cn: str) -> str:
        return f"cn={escape_rdn(cn)},{self.records}"

    def part(self, cn: str) -> str:
        return f"cn={escape_rdn(cn)},{self.journal}"
