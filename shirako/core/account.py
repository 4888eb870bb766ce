"""Accounts of what was given back: which receipts a broker knew of when it sold something.

A broker may sell again what an authority's receipt freed (rule 2), so that claims below one parent
may well add up to more than the parent, and none of them be wrong. Who wants to show that a broker
sold too much has to show which receipts it could rest on. So the authority keeps one account for
each claim that others are carved out of: a list of entries, one for each claim below it that is
given back, in one order. It says in each receipt where in the account it stands; the broker takes
the receipts in that order, and *cites* in each claim that it signs how far it had come (rule 3).
The citation is a hash over everything before it. So neither can the broker pretend to have rested
on other receipts, nor the authority to have written others.

An account grows with every lease. So it is cut into volumes: a new one begins with what of the
older ones still matters, the entries on claims whose terms are not over. A volume is named by the
tick at which it was opened: claims whose terms had ended by then do not matter in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from msgspec import Struct, json

VOLUME_ENTRIES_MIN = 256
"""A volume is closed when it has so many entries of its own, and as many as it carries: so that
opening volumes costs a constant amount for each entry."""


class Entry(Struct, frozen=True, array_like=True):
    """A claim was given back, but for `kept` units whose teardown failed: no more will be kept."""

    jti: str
    end: int
    """End of the claim's term: from then on nobody asks."""
    kept: int = 0


class Citation(Struct, frozen=True, array_like=True, order=True):
    """A place in an account: the first `number` entries of a volume, and all that it carries.

    They compare as they follow each other.
    """

    volume: int = 0
    number: int = 0
    head: str = ""
    """SHA-256 over all of it, in hexadecimal; empty at the very beginning."""


START = Citation()


class Page(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a citation stands for: the entries that were carried over, and those that follow."""

    volume: int = 0
    carried: tuple[Entry, ...] = ()
    entries: tuple[Entry, ...] = ()

    def cited_as(self) -> Citation:
        head = _opening(self.volume, self.carried)
        for entry in self.entries:
            head = _next(head, entry)
        return Citation(self.volume, len(self.entries), head)

    def kept(self) -> dict[str, int]:
        """`jti` of each claim that was given back -> units of it that were not."""
        return {entry.jti: entry.kept for entry in _merged((*self.carried, *self.entries))}


class Posting(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """One entry as a receipt states it: in whose account, and where there."""

    parent: str
    """Digest of the claim whose account it is."""
    entry: Entry
    place: Citation
    """After this entry."""
    before: Citation = START
    """Before it; in another volume when this entry is the first of a new one."""


class Volume(Struct, frozen=True, gc=False, kw_only=True):
    """A volume of an account as it was opened."""

    parent: str
    number: int
    """The tick at which it was opened; 0: the first one of the account."""
    carried: tuple[Entry, ...] = ()


class Account:
    """One account, as its authority writes it or as a broker follows it.

    It knows the volume that is being written and the one before it.
    """

    __slots__ = ("_carried", "_postings", "parent", "place")

    def __init__(
        self, parent: str, volumes: Iterable[Volume] = (), postings: Iterable[Posting] = ()
    ) -> None:
        """`volumes`, `postings`: those that were kept, in any order."""
        self.parent = parent
        self._carried = {0: ()} | {volume.number: volume.carried for volume in volumes}
        self._postings: dict[int, list[Posting]] = {number: [] for number in self._carried}
        for posting in sorted(postings, key=lambda posting: posting.place):
            self._postings[posting.place.volume].append(posting)
        latest = self._postings[max(self._postings)]
        self.place = latest[-1].place if latest else START

    def volumes(self) -> list[Volume]:
        """Those that are kept, in order, but for the first of all, which carries nothing."""
        return [
            Volume(parent=self.parent, number=number, carried=self._carried[number])
            for number in sorted(self._carried)
            if number
        ]

    def postings(self) -> list[Posting]:
        """Those that are kept, in order."""
        return [p for number in sorted(self._postings) for p in self._postings[number]]

    def post(self, entry: Entry, now: int) -> Posting:
        """Write the next entry; in a new volume when this one is full."""
        before = self.place
        if self._is_full():
            opened = max(before.volume + 1, now)
            head = _opening(opened, self._outlasting(opened))
            place = Citation(opened, 1, _next(head, entry))
        else:
            head = before.head or _opening(before.volume, ())
            place = Citation(before.volume, before.number + 1, _next(head, entry))
        posting = Posting(parent=self.parent, entry=entry, place=place, before=before)
        self.take(posting)
        return posting

    def follows(self, posting: Posting) -> bool:
        """Whether this is the entry that comes next here, and is what its place says."""
        if posting.before != self.place or posting.parent != self.parent:
            return False
        place = posting.place
        if place.volume == self.place.volume:
            head, number = self.place.head or _opening(place.volume, ()), self.place.number + 1
        elif place.volume > self.place.volume:
            head, number = _opening(place.volume, self._outlasting(place.volume)), 1
        else:
            return False
        return place == Citation(place.volume, number, _next(head, posting.entry))

    def holds(self, posting: Posting) -> bool:
        """Whether exactly this was posted or taken here, and is not forgotten yet."""
        known = self._postings.get(posting.place.volume, [])
        return len(known) >= posting.place.number > 0 and known[posting.place.number - 1] == posting

    def take(self, posting: Posting) -> None:
        """Write down what `follows` has found to come next."""
        place = posting.place
        if place.volume != self.place.volume:
            self._carried[place.volume] = self._outlasting(place.volume)
            self._postings[place.volume] = []
        self._postings[place.volume].append(posting)
        self.place = place

    def drop_old(self) -> tuple[list[Volume], list[Posting]]:
        """Forget volumes before the last but one; returns what was forgotten."""
        old = sorted(self._carried)[:-2]
        volumes = [volume for volume in self.volumes() if volume.number in old]
        postings = [p for number in old for p in self._postings[number]]
        for number in old:
            del self._carried[number], self._postings[number]
        return volumes, postings

    def page(self, cited: Citation) -> Page | None:
        """What the citation stands for; None when this account has never been there, or has
        forgotten it since."""
        if cited == START:
            return Page()
        if cited.volume not in self._carried:
            return None
        page = Page(
            volume=cited.volume,
            carried=self._carried[cited.volume],
            entries=tuple(p.entry for p in self._postings[cited.volume][: max(cited.number, 0)]),
        )
        return page if page.cited_as() == cited else None

    def _is_full(self) -> bool:
        carried = len(self._carried[self.place.volume])
        return self.place.number >= max(VOLUME_ENTRIES_MIN, carried)

    def _outlasting(self, opened: int) -> tuple[Entry, ...]:
        """What a new volume carries: entries on claims whose terms are not over at `opened`."""
        latest = self.place.volume
        known = (*self._carried[latest], *(p.entry for p in self._postings[latest]))
        return tuple(entry for entry in _merged(known) if entry.end > opened)


def _merged(entries: Iterable[Entry]) -> list[Entry]:
    """One entry for each claim: what was given back once is not taken back by a later entry."""
    merged: dict[str, Entry] = {}
    for entry in entries:
        known = merged.get(entry.jti, entry)
        merged[entry.jti] = Entry(entry.jti, max(entry.end, known.end), min(entry.kept, known.kept))
    return [merged[jti] for jti in sorted(merged)]


def _opening(volume: int, carried: tuple[Entry, ...]) -> str:
    return "" if not (volume or carried) else _hash(json.encode([volume, *carried]))


def _next(head: str, entry: Entry) -> str:
    return _hash(head.encode() + json.encode(entry))


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
