"""The accounts that an actor writes or follows (`core.account`), and how the ledger keeps them.

One row a posting and one a volume, written once, and dropped when two newer volumes were opened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from msgspec import Struct

from shirako.core.account import Account, Citation, Entry, Page, Posting, Volume
from shirako.core.machine import Key

POSTING, VOLUME = "posting", "volume"
KINDS: dict[str, type[Struct]] = {POSTING: Posting, VOLUME: Volume}
"""Kinds of rows, and what they hold."""
Store = Callable[[str, Key, Posting | Volume | None], None]
"""Is told of each row that is new (kind, key, what it holds), and of each that is gone (None)."""


class Accounts:
    """By the digest of the claim that an account belongs to."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._accounts: dict[str, Account] = {}
        self._volumes: dict[str, list[Volume]] = {}
        self._postings: dict[str, list[Posting]] = {}

    def load(self, row: Posting | Volume) -> None:
        """Note what the ledger holds; `loaded` is called after the last one."""
        if isinstance(row, Volume):
            self._volumes.setdefault(row.parent, []).append(row)
        else:
            self._postings.setdefault(row.parent, []).append(row)

    def loaded(self) -> None:
        self._accounts = {
            parent: Account(parent, self._volumes.get(parent, ()), postings)
            for parent, postings in self._postings.items()
        }
        self._volumes, self._postings = {}, {}

    def rows(self) -> Iterator[tuple[str, Key, Posting | Volume]]:
        """All that the ledger should hold of them: kind, key and row."""
        for account in self._accounts.values():
            for volume in account.volumes():
                yield VOLUME, _volume_key(volume), volume
            for posting in account.postings():
                yield POSTING, _posting_key(posting), posting

    def last_ends(self) -> dict[str, int]:
        """By claim: the latest end of those below it that are known to be given back."""
        ends: dict[str, int] = {}
        for parent, account in self._accounts.items():
            carried = (entry for volume in account.volumes() for entry in volume.carried)
            entries = (*carried, *(posting.entry for posting in account.postings()))
            ends[parent] = max(entry.end for entry in entries)
        return ends

    def forget(self, parent: str) -> None:
        """Drop the account of a claim that nobody sells out of any more, if there is one."""
        account = self._accounts.pop(parent, None)
        if account is None:
            return
        for volume in account.volumes():
            self._store(VOLUME, _volume_key(volume), None)
        for posting in account.postings():
            self._store(POSTING, _posting_key(posting), None)

    def place(self, parent: str) -> Citation:
        """How far the account goes: what a claim that is signed now cites."""
        return self._account(parent).place

    def page(self, parent: str, cited: Citation) -> Page | None:
        """What a citation of this account stands for, as far as that is still known."""
        return self._account(parent).page(cited)

    def post(self, parent: str, entry: Entry, now: int) -> Posting:
        """Write the next entry of an account of our own."""
        account = self._account(parent)
        posting = account.post(entry, now)
        self._stored(account, posting)
        return posting

    def are_early(self, postings: Sequence[Posting]) -> bool:
        """Whether others stand before some of these that have not come yet."""
        reached: dict[str, Citation] = {}
        for posting in postings:
            account = self._account(posting.parent)
            place = reached.get(posting.parent, account.place)
            if posting.before == place:
                reached[posting.parent] = posting.place
            elif not account.holds(posting) and _is_beyond(posting.before, place):
                return True
        return False

    def follow(self, posting: Posting) -> bool:
        """Take a posting of somebody else's account, if it is the next one there; whether it is in
        the account now. It is not when it contradicts what is there."""
        account = self._account(posting.parent)
        if account.holds(posting):
            return True
        if not account.follows(posting):
            return False
        account.take(posting)
        self._stored(account, posting)
        return True

    def _account(self, parent: str) -> Account:
        return self._accounts.get(parent) or Account(parent)

    def _stored(self, account: Account, posting: Posting) -> None:
        self._accounts[account.parent] = account
        self._store(POSTING, _posting_key(posting), posting)
        if posting.place.number > 1 or not posting.place.volume:
            return
        opened = account.volumes()[-1]
        self._store(VOLUME, _volume_key(opened), opened)
        volumes, postings = account.drop_old()
        for volume in volumes:
            self._store(VOLUME, _volume_key(volume), None)
        for old in postings:
            self._store(POSTING, _posting_key(old), None)


def _is_beyond(one: Citation, other: Citation) -> bool:
    return (one.volume, one.number) > (other.volume, other.number)


def _posting_key(posting: Posting) -> Key:
    return (posting.parent, f"{posting.place.volume}.{posting.place.number}")


def _volume_key(volume: Volume) -> Key:
    return (volume.parent, str(volume.number))
