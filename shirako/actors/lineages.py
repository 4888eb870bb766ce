"""Which keys speak for the actors that we know: the longest lineage seen of each.

It is kept in the ledger (kind `lineage`), so that a key that was replaced stays retired when we
are started again. What the operator has pinned comes first: where it does not go together with
what was seen, what was seen is forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from shirako.core.lineage import Lineage, check_speaker, check_statement, grows
from shirako.trust import lineage_in

KIND = "lineage"
LINEAGES_MAX = 10_000
"""Of actors that are not pinned; beyond it the one that was met first is forgotten (BOUNDED)."""


class Seen(msgspec.Struct, frozen=True):
    """What the ledger keeps of one actor's lineage."""

    tokens: tuple[str, ...]


class Lineages:
    """The lineages of all actors that we have met with another key than their first."""

    def __init__(self) -> None:
        self._known: dict[str, Lineage] = {}
        self._stored: dict[str, tuple[str, ...]] = {}
        """What the ledger has, the oldest first."""
        self._pinned: frozenset[str] = frozenset()

    def load(self, identity: str, seen: Seen) -> None:
        self._known[identity] = lineage_in(seen.tokens)
        self._stored[identity] = seen.tokens

    def pin(self, pinned: Mapping[str, tuple[str, ...]]) -> None:
        """Take what the operator has pinned, by identity, once the ledger is loaded."""
        self._pinned = frozenset(pinned)
        for identity, tokens in pinned.items():
            known = self._known.get(identity)
            if tokens and (known is None or known.tokens[: len(tokens)] != tokens):
                self._known[identity] = lineage_in(tokens)

    def number(self, identity: str) -> int:
        """How many keys of this actor are retired."""
        known = self._known.get(identity)
        return len(known.tokens) if known is not None else 0

    def check_speaker(self, identity: str, shown: tuple[str, ...]) -> None:
        """Raise `Disowned` unless who shows the lineage `shown` may speak for the actor."""
        check_speaker(self._known.get(identity), shown)

    def check_statement(self, identity: str, shown: tuple[str, ...], now: int) -> None:
        """Raise `Disowned` when a statement comes too late for the key that signed it."""
        check_statement(self._known.get(identity), shown, now)

    def meet(self, identity: str, shown: tuple[str, ...]) -> dict[str, Seen | None]:
        """Remember a lineage that `check_speaker` let pass; returns what the ledger has to change.

        None as a value: forget it.
        """
        if grows(self._known.get(identity), shown):
            self._known[identity] = lineage_in(shown)
        known = self._known.get(identity)
        if known is None or self._stored.get(identity) == known.tokens:
            return {}
        changes: dict[str, Seen | None] = {identity: Seen(known.tokens)}
        self._stored.pop(identity, None)
        self._stored[identity] = known.tokens
        strangers = [one for one in self._stored if one not in self._pinned]
        for one in strangers[: max(len(strangers) - LINEAGES_MAX, 0)]:
            del self._stored[one], self._known[one]
            changes[one] = None
        return changes
