"""ROOTED: who sold too much is shown to have, and nobody else can be (rule 4).

Every proof that a site keeps or sends is judged anew, by somebody who has nothing but the proof,
and has to name a broker that cheats. When a run is over, all that honest brokers have ever sold and
all that the sites have ever written into their accounts is searched for a proof against one of
them: there is none, whatever of it is shown. And when a site refuses a ticket because too much was
sold, it shows so wherever that can be shown; where not, the reason is counted (`Facts.seen`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, ClassVar, NamedTuple

from shirako.core.account import START, Citation, Entry, Page, Posting, Volume
from shirako.core.claims import Chain, Claim, Unfit
from shirako.core.conflict import CHILDREN_MAX, Conflict, Verdict, allowed, judge, weight
from shirako.simulation.attacks import SHADOW
from shirako.simulation.checks.check import CLOCK_SECONDS, Check
from shirako.simulation.facts import Commit, Posted, Restoration
from shirako.simulation.records import (
    BrokerRecord,
    DelegationRecord,
    Key,
    RefusalRecord,
    SiteRecord,
    read_failed,
    read_presented,
    read_receipt,
    spent_in,
)
from shirako.simulation.seats import Seat
from shirako.simulation.signatures import payload_of
from shirako.trust import Untrusted, Verifier, digest

SHOWN = "conflict shown"
NOT_SHOWN = "oversold and not shown"
FITS = "what was redeemed before the turn leaves room for it"
OVER = "too much was sold only of instants that are over"
MADE_UP = "without claims that cite what nobody has written it is not too much"
FORGOTTEN = "the site has forgotten the receipts that are cited"
RESTORED = "the site was restored, and has forgotten what was redeemed"


class Redeemed(NamedTuple):
    """A claim that a site honours."""

    chain: Chain
    since: float
    """When it committed to that."""


class Asked(NamedTuple):
    """A ticket on its way to a site."""

    raw: bytes
    at: float


class Conflicts(Check):
    invariant: ClassVar[str] = "ROOTED"
    parts: ClassVar[tuple[str, ...]] = ("site", "broker")

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self._verifier = Verifier()
        self._roots: dict[str, str] = {}
        """Digest of a root claim -> its token."""
        self._sold: dict[Chain, dict[str, Claim]] = {}
        """Chain of a claim -> what its holder has sold of it, by token."""
        self._carried: dict[tuple[str, int], tuple[Entry, ...]] = {}
        """Account and volume -> what the volume was opened with."""
        self._entries: dict[tuple[str, int], list[Entry]] = {}
        self._places: dict[str, dict[Citation, Citation]] = {}
        """Account -> its places, and the one before each."""
        self._redeemed: dict[str, dict[tuple[Key, str, str], Redeemed]] = {}
        """By site."""
        self._asked: dict[tuple[str, Key, int], Asked] = {}
        """(sender, lease, number) -> what was to be redeemed."""
        self._judged: dict[Conflict, str] = {}
        self._refused: set[tuple[str, Key, int]] = set()

    # Commits ----------------------------------------------------------------------------------

    def committed(self, commit: Commit) -> None:
        if commit.part == "site":
            self._take_account(commit)
        for _, key, _, new in commit.changes:
            if commit.part == "site":
                self._take_of_site(commit.actor, key, new)
            elif isinstance(new, BrokerRecord):
                for grant in new.grants:
                    if grant.chain:  # none once its term is over
                        self._take_sold(key, grant.chain)
            elif isinstance(new, DelegationRecord) and new.source:
                self._take_sold(None, new.chain)

    def restored(self, restoration: Restoration) -> None:
        """What a site has forgotten is nothing that it could show."""
        if restoration.part == "site":
            redeemed = self._redeemed.get(restoration.actor, {})
            for key, spent in spent_in(restoration.before) - spent_in(restoration.after):
                redeemed.pop((key, spent.issuer, spent.jti), None)

    def _take_of_site(self, site: str, key: Key, new: Any) -> None:
        if isinstance(new, DelegationRecord):
            self._roots[digest(new.chain[0])] = new.chain[0]
        elif isinstance(new, Conflict):
            self._check(new, f"{site} keeps")
        elif isinstance(new, SiteRecord):
            redeemed = self._redeemed.setdefault(site, {})
            for spent in new.spent:
                where = (key, spent.issuer, spent.jti)
                if new.final or not spent.tokens:
                    redeemed.pop(where, None)
                elif where not in redeemed:
                    chain = (self._roots[spent.ancestors[0].digest], *spent.tokens)
                    redeemed[where] = Redeemed(chain, self.world.loop.now)

    def _take_account(self, commit: Commit) -> None:
        """What the site's receipts say of its accounts: it may have forgotten it at once."""
        postings: list[Posting] = []
        for _, _, old, new in commit.changes:
            if isinstance(new, Volume):
                self._carried[new.parent, new.number] = new.carried
            elif (
                isinstance(new, SiteRecord)
                and new.receipt
                and (not isinstance(old, SiteRecord) or old.receipt != new.receipt)
            ):
                payload = payload_of(new.receipt)
                postings += read_receipt(payload).postings if payload else ()
        for posting in sorted(postings, key=lambda posting: posting.place):
            places = self._places.setdefault(posting.parent, {})
            if posting.place in places:
                continue
            # what a site has forgotten to have written it writes anew
            anew = posting.parent in self.world.restorer.split
            if posting.before in places.values() and not anew:
                self.violated(None, f"{commit.actor} has written its account in two ways")
            places[posting.place] = posting.before
            entries = self._entries.setdefault((posting.parent, posting.place.volume), [])
            entries.append(posting.entry)

    def _is_written(self, parent: str, cited: Citation) -> bool:
        return cited == START or cited in self._places.get(parent, ())

    def _take_sold(self, key: Key | None, chain: Chain) -> None:
        sold = self._sold.setdefault(chain[:-1], {})
        if chain[-1] in sold:
            return
        claim = sold[chain[-1]] = self._verifier.chain(chain)[-1]
        if not self._is_written(claim.parent, claim.account) and not self._cheats(claim.issuer):
            self.violated(key, f"{self._name(claim.issuer)} cites receipts that nobody has written")

    # Proofs -----------------------------------------------------------------------------------

    def _check(self, conflict: Conflict, what: str) -> Verdict | None:
        """The verdict on a proof that somebody has shown."""
        try:
            verdict = judge(conflict, self._verifier.chain)
        except (Unfit, Untrusted) as error:
            self.violated(None, f"{what} a proof that proves nothing: {error}")
            return None
        if not self._cheats(verdict.broker.kid):
            name = self._name(verdict.broker.kid)
            self.violated(None, f"{what} a proof against {name}, which is honest")
        return verdict

    def _name(self, kid: str) -> str:
        return self.facts.names.get(kid, kid)

    def _cheats(self, kid: str) -> bool:
        name = self._name(kid)
        return name in self.world.cheats or name == SHADOW

    # Refusals ---------------------------------------------------------------------------------

    def posted(self, posted: Posted) -> None:
        for head, raw in posted.said:
            key = (head.holder, head.rid)
            if head.what in ("Redeem", "ExtendLease"):
                self._asked.setdefault(
                    (posted.receiver, key, head.n), Asked(raw, self.world.loop.now)
                )
            elif head.what == "Failed" and not posted.raw:
                self._take_failed(posted.sender, key, raw)

    def _take_failed(self, sender: str, key: Key, raw: bytes) -> None:
        """In answer to an extension."""
        if b'"oversold"' not in raw and b'"conflict"' not in raw:
            return
        failed = read_failed(raw)
        where = (sender, key, failed.answers)
        if self.world.seats[sender].part == "site" and where not in self._refused:
            self._refused.add(where)
            self._take_refusal(where, failed.code, failed.conflict, "an extension")

    def acknowledged(self, posted: Posted, refused: dict[int, RefusalRecord]) -> None:
        for index, refusal in refused.items():
            if refusal.code not in ("oversold", "conflict") and refusal.conflict is None:
                continue
            head, _ = posted.said[index]
            where = (posted.receiver, (head.holder, head.rid), head.n)
            self._take_refusal(where, refusal.code, refusal.conflict, "a redeem")

    def _take_refusal(
        self, where: tuple[str, Key, int], code: str, conflict: Conflict | None, of: str
    ) -> None:
        site, key, _ = where
        asked = self._asked.get(where)
        if asked is None:
            self.violated(key, f"{site} refuses as {code} what nobody has asked for")
            return
        ticket = read_presented(asked.raw).ticket
        if conflict is not None:
            verdict = self._check(conflict, f"{site} sends")
            if verdict is not None:
                self._count(f"{SHOWN}: at {of}")
                if len(conflict.parent) > 1:
                    self._count(f"{SHOWN}: of a broker below")
                if any(not child.reservation for child in verdict.children):
                    self._count(f"{SHOWN}: by what a broker below was given")
        elif code == "conflict":
            self.violated(key, f"{site} speaks of a conflict, and does not show it")
        else:
            why = self._why_not_shown(self.world.seats[site], ticket, asked.at)
            if not why and site in self.world.restorer.restored:
                why = RESTORED
            if not why:
                self.violated(key, f"{site} could have shown who sold too much, and does not")
            self._count(f"{NOT_SHOWN}: {why}")
        for chain in ticket:
            above = self._verifier.chain(chain)[:-1]
            if any(self._cheats(claim.holder.kid) for claim in above):
                return
            if any(claim.digest in self.world.restorer.split for claim in above):
                return  # given back, by a receipt that the site has forgotten
        self.violated(key, f"{site} refuses as {code} what honest brokers have sold")

    def _count(self, what: str) -> None:
        self.facts.seen[what] += 1

    def _why_not_shown(self, site: Seat, ticket: tuple[Chain, ...], asked: float) -> str:
        """Why what was redeemed before, and the ticket, prove nothing; empty: they do."""
        redeemed = self._redeemed.get(site.name, {}).values()
        chains = [*ticket, *(one.chain for one in redeemed if one.since < asked)]
        reasons = {
            self._why_not_of(site, chains, chain, depth)
            for chain in ticket
            for depth in range(1, len(chain))
        }
        return "" if "" in reasons else min(reasons - {FITS}, default=FITS)

    def _why_not_of(self, site: Seat, chains: list[Chain], chain: Chain, depth: int) -> str:
        """The same of one claim above a chain of the ticket."""
        above, term = chain[:depth], self._verifier.chain(chain)[-1].term
        parent = self._verifier.chain(above)[-1]
        tokens = sorted({one[depth] for one in chains if one[:depth] == above})
        claims = [self._verifier.chain((*above, token))[-1] for token in tokens]
        now = site.tick() + CLOCK_SECONDS
        starts = {claim.term.start for claim in claims if term.covers(claim.term.start)}
        ahead = {start for start in starts if start >= now} | ({now} if term.covers(now) else set())
        why = FITS
        for instant in sorted(starts | ahead):
            covering = [claim for claim in claims if claim.term.covers(instant)]
            if sum(map(weight, covering)) <= allowed(parent):
                continue
            if instant not in ahead:
                why = OVER if why == FITS else why
                continue
            places = {claim.account for claim in covering}
            pages = [self._page(parent.digest, c) for c in places if self._keeps(site, parent, c)]
            if any(page and _exceeding(covering, page, parent, instant) for page in pages):
                return ""
            why = MADE_UP
            if all(self._is_written(parent.digest, cited) for cited in places):
                why = FORGOTTEN
        return why

    def _keeps(self, site: Seat, parent: Claim, cited: Citation) -> bool:
        """Whether the site knows this place, and has not forgotten it."""
        where = (parent.digest, f"{cited.volume}.{cited.number}")
        return self._is_written(parent.digest, cited) and (
            cited == START or ("posting", where) in site.kept
        )

    # The search -------------------------------------------------------------------------------

    def ended(self) -> None:
        """Nothing that an honest broker has ever signed convicts it, whatever is left out of it."""
        for above, sold in self._sold.items():
            parent = self._verifier.chain(above)[-1]
            if self._cheats(parent.holder.kid):
                continue
            for conflict, newest in self._indictments(above, parent, sold):
                with suppress(Unfit):
                    judge(conflict, self._verifier.chain)
                    key = (newest.holder.kid, newest.reservation)
                    name = self._name(parent.holder.kid)
                    self.violated(key, f"{name} is honest, and could be convicted by this sale")

    def _indictments(
        self, above: Chain, parent: Claim, sold: dict[str, Claim]
    ) -> Iterator[tuple[Conflict, Claim]]:
        """For each citation and instant the worst that can be shown, where it exceeds the claim
        above; and the newest claim of it."""
        tokens = {claim.jti: token for token, claim in sold.items()}
        for cited in sorted({claim.account for claim in sold.values()}):
            page = self._page(parent.digest, cited)
            older = [claim for claim in sold.values() if claim.account <= cited]
            if page is None or sum(map(weight, older)) <= allowed(parent):
                continue
            instants = {claim.term.start for claim in older} | {page.volume}
            for instant in sorted(instants):
                shown = _exceeding(older, page, parent, instant)
                if shown:
                    conflict = Conflict(
                        parent=above,
                        children=tuple(tokens[claim.jti] for claim in shown),
                        instant=instant,
                        page=page,
                    )
                    yield conflict, shown[0]

    def _page(self, parent: str, cited: Citation) -> Page | None:
        """What was written up to there; None: nobody has written that."""
        if not self._is_written(parent, cited) or parent in self.world.restorer.split:
            return None
        if cited.volume and (parent, cited.volume) not in self._carried:
            return None  # opened and forgotten in one commit
        entries = self._entries.get((parent, cited.volume), [])
        page = Page(
            volume=cited.volume,
            carried=self._carried.get((parent, cited.volume), ()),
            entries=tuple(entries[: cited.number]),
        )
        if page.cited_as() != cited:
            self.violated(None, "an account does not say what its places say")
        return page


def _exceeding(
    claims: Iterable[Claim], page: Page, parent: Claim, instant: int
) -> tuple[Claim, ...]:
    """Claims that exceed the one above at the instant, the newest first; empty: none do.

    One of them cites the page, and none cites more.
    """
    cited = page.cited_as()
    if instant < page.volume:
        return ()
    kept = page.kept()
    shown: list[Claim] = []
    total = 0
    covering = [c for c in claims if c.account <= cited and c.term.covers(instant)]
    left = {c.digest: min(weight(c), kept.get(c.jti, weight(c))) for c in covering}
    citing = [c for c in covering if c.account == cited]
    newest = max(citing, key=lambda c: left[c.digest], default=None)
    if newest is None:
        return ()
    rest = sorted((c for c in covering if c is not newest), key=lambda c: -left[c.digest])
    for claim in (newest, *rest):
        shown.append(claim)
        total += left[claim.digest]
        if total > allowed(parent):
            return tuple(shown) if len(shown) <= CHILDREN_MAX else ()
    return ()
