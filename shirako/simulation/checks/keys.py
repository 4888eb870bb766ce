"""ROOTED: a key that was replaced speaks for nobody any more, and costs nobody what it has signed.

Who has committed that a later key speaks for an actor takes nothing more of an earlier one, and no
statement of it that comes for the first time when its grace is over. What it has taken of a later
key it remembers: lineages grow, and say what the actors' own keys say. And nobody is refused for an
earlier key before that is due.
"""

from __future__ import annotations

from typing import Any, ClassVar

from shirako.core.lineage import Succession
from shirako.simulation.checks.check import CLOCK_SECONDS, Check
from shirako.simulation.facts import Commit, Posted, Restoration
from shirako.simulation.records import (
    DelegationRecord,
    Key,
    LeaseRecord,
    LineageRecord,
    RefusalRecord,
    SiteRecord,
    SpentRecord,
    read_claim,
    read_presented,
)
from shirako.simulation.seats import Seat
from shirako.simulation.signatures import payload_of
from shirako.trust import Untrusted, digest, lineage_in, lineage_of

REFUSED = "envelope of a retired key refused"
EXPIRED = "claim of a retired key refused"
BELIEVED = "claim of a retired key taken"
_PRESENTING = ("Redeem", "ExtendLease", "ModifyLease", "Close")


class Keys(Check):
    invariant: ClassVar[str] = "ROOTED"

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self._known: dict[tuple[str, str], tuple[str, ...]] = {}
        """(actor, identity) -> the lineage that it has committed to."""
        self._learnt: dict[tuple[str, str], list[float]] = {}
        """(actor, identity) -> when it committed to each key after the first."""
        self._seen: dict[str, set[str]] = {}
        """Site -> digests of the claims that it has ever honoured."""

    # What is known ----------------------------------------------------------------------------

    def committed(self, commit: Commit) -> None:
        for _, key, old, new in commit.changes:
            if isinstance(new, SiteRecord):
                known = {spent.jti for spent in old.spent} if isinstance(old, SiteRecord) else set()
                for spent in new.spent:
                    if spent.jti not in known:
                        voided = new.final and not new.redeemed
                        self._take_spent(commit, key, spent, voided=voided)
        # what came first in this commit is not known: claims are held against what was before it
        for kind, key, _, new in commit.changes:
            if kind == "lineage":
                self._take_lineage(commit.actor, key[0], new)

    def restored(self, restoration: Restoration) -> None:
        """It knows the keys that the backup knows, and has to learn of later ones again."""
        for where in [where for where in self._known if where[0] == restoration.actor]:
            del self._known[where], self._learnt[where]
        for (kind, key), record in restoration.after.items():
            if kind == "lineage" and isinstance(record, LineageRecord):
                self._take_lineage(restoration.actor, key[0], record)

    def _take_lineage(self, actor: str, identity: str, new: LineageRecord | None) -> None:
        name = self.facts.names.get(identity, identity)
        before = self._known.get((actor, identity), ())
        tokens = new.tokens if new is not None else ()
        owner = self.world.seats.get(name)
        if owner is None or owner.key.lineage[: len(tokens)] != tokens:
            self.violated(None, f"{actor} believes that {name} has a key that it has not")
        if tokens[: len(before)] != before:
            self.violated(None, f"{actor} forgets a key of {name}")
        self._known[actor, identity] = tokens
        learnt = self._learnt.setdefault((actor, identity), [])
        learnt += [self.world.loop.now] * (len(tokens) - len(learnt))

    def _lineage(self, identity: str) -> tuple[str, ...]:
        """What there is by now of that actor's."""
        seat = self.world.seats.get(self.facts.names.get(identity, ""))
        return seat.key.lineage if seat is not None else ()

    # Envelopes --------------------------------------------------------------------------------

    def acknowledged(self, posted: Posted, refused: dict[int, RefusalRecord]) -> None:
        sender = self.world.seats.get(posted.sender)
        receiver = self.world.seats.get(posted.receiver)
        if sender is None or receiver is None:
            return
        identity, shown = sender.party.kid, lineage_of(posted.envelope.decode())
        learnt = self._learnt.get((receiver.name, identity), [])
        if len(learnt) > len(shown) and learnt[len(shown)] < posted.at:
            self.violated(None, f"{receiver.name} takes what a retired key of {sender.name} says")
        for index, (head, raw) in enumerate(posted.said):
            key = (head.holder, head.rid)
            if index in refused:
                if not posted.raw and head.what in _PRESENTING:
                    self._check_refused(receiver, key, raw, refused[index])
            elif shown:
                self._check_remembered(receiver, sender, key, shown)

    def _check_remembered(
        self, receiver: Seat, sender: Seat, key: Key, shown: tuple[str, ...]
    ) -> None:
        record = receiver.kept.get(("lease", key)) or receiver.kept.get(("delegation", key))
        if not isinstance(record, LeaseRecord | DelegationRecord):
            return
        learnt = self._learnt.get((receiver.name, sender.party.kid), [])
        if sender.party.kid in record.lines and len(learnt) < len(shown):
            self.violated(key, f"{receiver.name} does not note with which key {sender.name} speaks")

    def _check_refused(self, site: Seat, key: Key, raw: bytes, refusal: RefusalRecord) -> None:
        """A ticket is refused for the key that signed it only when that is due.

        The site may have read of a later key before it has committed to it.
        """
        if refusal.code == "forked":
            self.violated(key, f"{site.name} sees two keys where there is one: {refusal.reason}")
        if refusal.code != "retired":
            return
        self.facts.seen[EXPIRED] += 1
        tokens = {token for chain in read_presented(raw).ticket for token in chain[1:]}
        now = site.tick() + CLOCK_SECONDS
        if not any(_is_late(token, self._lineage(_issuer(token)), now) for token in tokens):
            self.violated(key, f"{site.name} refuses a claim before its key's grace is over")

    def rejected(self, posted: Posted, kind: str) -> None:
        sender = self.world.seats.get(posted.sender)
        if posted.raw:
            if kind == "retired":
                self.facts.seen[REFUSED] += 1
            return
        if kind == "retired" and sender is not None:
            self.facts.seen[REFUSED] += 1
            if lineage_of(posted.envelope.decode()) == sender.key.lineage:
                self.violated(None, f"{posted.receiver} takes the key of {sender.name} for retired")
        elif kind in ("signature", "forked"):
            self.violated(None, f"{posted.receiver} refuses {posted.sender}: {kind}")

    # Claims -----------------------------------------------------------------------------------

    def _take_spent(self, commit: Commit, key: Key, spent: SpentRecord, *, voided: bool) -> None:
        seen = self._seen.setdefault(commit.actor, set())
        for token in spent.tokens:
            name = digest(token)
            if name not in seen and not voided:
                known = self._known.get((commit.actor, _issuer(token)), ())
                if _is_late(token, known, commit.tick - CLOCK_SECONDS):
                    self.violated(key, f"{commit.actor} honours what a retired key has signed")
                elif _newer(token, known) is not None:
                    self.facts.seen[BELIEVED] += 1
            seen.add(name)


def _issuer(token: str) -> str:
    payload = payload_of(token)
    return read_claim(payload).iss if payload is not None else ""


def _newer(token: str, known: tuple[str, ...]) -> Succession | None:
    """The step away from the key that signed a token, if this lineage has it."""
    try:
        shown = lineage_of(token)
    except Untrusted:
        return None
    return lineage_in(known).successions[len(shown)] if len(known) > len(shown) else None


def _is_late(token: str, known: tuple[str, ...], now: int) -> bool:
    """Whether what that key has signed is over, as who knows this lineage sees it."""
    newer = _newer(token, known)
    return newer is not None and now > newer.until
