"""Mutants that break no promise, each with the reason why; see `tests.model.mutants`."""

from __future__ import annotations

TABLE_STATES_MAX = 80
FUNCTION_STATES_MAX = 40
"""Of the worlds in which they are run all the same: one that is caught there is listed wrongly."""


def _of(role: str, what: str, *pairs: str) -> tuple[str, ...]:
    return tuple(f"{role}: {pair}: {what}" for pair in pairs)


def _guest(what: str, *pairs: str) -> tuple[str, ...]:
    return _of("service-manager", what, *pairs)


def _broker(what: str, *pairs: str) -> tuple[str, ...]:
    return _of("broker", what, *pairs)


def _site(what: str, *pairs: str) -> tuple[str, ...]:
    return _of("authority", what, *pairs)


_ROOT = "claims.check_chain: without "

REASONS: dict[str, tuple[str, ...]] = {
    "what the step leads to in the same turn sets a deadline of its own": (
        *_guest(
            "sets no deadline",
            "Redeeming, LeaseUpdated",
            "ExtendingTicket, TicketUpdated",
            "ExtendingTicket, Denied",
            "ExtendingLease, Refused",
        ),
        *_broker("sets no deadline", "Nascent, TicketAsked"),
        *_site("sets no deadline", "Redeeming, UnitsFreed"),
    ),
    "a policy that is asked the same twice in a turn says the same": _guest(
        "has its effects twice",
        "Leased, Unblocked",
        "Leased, Woken",
        "ActiveTicketed, Woken",
        "ExtendingLease, LeaseUpdated",
        "ExtendingLease, Refused",
    ),
    "an older deadline still stands, and wakes the lease before its term ends, if later": _guest(
        "has no effects",
        "Joining, HandlerEnded",
        "ExtendingTicket, Denied",
        "ExtendingLease, LeaseUpdated",
        "ExtendingLease, Refused",
    ),
    "handlers have time-outs, so nothing hangs without this deadline": (
        *_guest("sets no deadline", "Leaving, LeaseUpdated"),
        *_guest("is dropped", "Joining, WakeLater", "Leaving, Woken"),
    ),
    "the guest is not alone with the receipt: its site gives it to the broker too": _guest(
        "says nothing",
        "Redeeming, LeaseUpdated",
        "Leased, LeaseUpdated",
        "Joining, LeaseUpdated",
        "Active, LeaseUpdated",
        "ExtendingTicket, LeaseUpdated",
        "ActiveTicketed, LeaseUpdated",
        "ExtendingLease, LeaseUpdated",
        "Leaving, LeaseUpdated",
        "CloseWait, LeaseUpdated",
        "CloseWait, Refused",
        "Closed, LeaseUpdated",
        "Closed, Refused",
        "Failed, LeaseUpdated",
    ),
    "the term is over: nothing is left to be held, given back or told in time": (
        *_guest("closes", "Ticketing, Woken", "Redeeming, Woken", "Leaving, Woken"),
        *_guest("closes", "CloseWait, Woken"),
        *_guest("says nothing", "Ticketing, Woken", "Redeeming, Woken", "Leaving, Woken"),
        *_guest("says nothing", "CloseWait, Woken"),
        *_guest("is dropped", "Closed, Refused", "Failed, Refused"),
        *_guest("keeps no data", "Closed, Refused"),
        *_broker("keeps no data", "Ticketed, Woken"),
        *_site("has no effects", "Redeeming, Woken", "Active, Woken"),
        *_site("has its effects twice", "Redeeming, Woken", "Active, Woken"),
        *_site("keeps no data", "Priming, Woken", "Active, Woken"),
    ),
    "Failed or Closed: both are the end, and the words beside it say why": (
        *_guest("closes", "CloseWait, Refused", "Failed, TicketUpdated"),
        *_guest("closes", "Failed, LeaseUpdated", "Failed, Refused"),
        *_guest("keeps no data", "Ticketed, TicketUpdated"),
    ),
    "of what was never revoked all is left, and the calendars say so": (
        "Authority._revoked_above: without `if delegation.revoked is None`",
    ),
    "an update that means nothing is taken by the role itself, and changes nothing": _guest(
        "is dropped",
        "CloseWait, TicketUpdated",
        "Closed, TicketUpdated",
        "Failed, TicketUpdated",
    ),
    "the broker answers the request before it, which is as good": (
        *_guest("says nothing", "Ticketing, CloseAsked"),
        *_broker("says nothing", "Ticketed, Relinquished"),
    ),
    "its own Close has been said, or will be, and the site answers that": (
        *_guest("stays where it was", "Leaving, HandlerEnded"),
        *_guest("is dropped", "Leaving, LeaseUpdated"),
    ),
    "the receipt frees the grants of a closed record as well": _broker(
        "closes", "Ticketed, Relinquished"
    ),
    "a broker decides in the turn in which it is asked, so nothing arrives in between": (
        *_broker("is dropped", "Ticketing, Relinquished", "ExtendingTicket, Relinquished"),
        *_broker("is dropped", "Ticketing, Woken", "ExtendingTicket, Woken"),
    ),
    "an honest guest asks for nothing more once it has closed; a dishonest one is owed no answer": (
        *_broker("is dropped", "Closed, TicketAsked", "Closed, ExtendTicketAsked"),
        *_broker("says nothing", "Closed, ExtendTicketAsked"),
        *_site("is dropped", "Closed, RedeemAsked", "CloseFailed, RedeemAsked"),
    ),
    "it remembers which request it answers, and has answered it": (
        *_broker("keeps no data", "Nascent, Relinquished", "Closed, ExtendTicketAsked"),
        *_site("keeps no data", "Active, ExtendLeaseUnfit", "Closing, ExtendLeaseUnfit"),
        *_site("keeps no data", "Closed, ExtendLeaseUnfit", "CloseFailed, ExtendLeaseUnfit"),
        *_site("keeps no data", "Closed, CloseMessage", "CloseFailed, CloseMessage"),
    ),
    "the last update says that the lease is over, which is more than the refusal says": (
        *_site("is dropped", "Closing, ExtendLeaseUnfit"),
        *_site("says nothing", "Closing, ExtendLeaseUnfit"),
        *_site("says nothing", "Closed, ExtendLeaseUnfit", "CloseFailed, ExtendLeaseUnfit"),
        *_site("says nothing", "CloseFailed, CloseMessage"),
    ),
    "how far a teardown is, is set by its handler's end; nothing reads it in between": _site(
        "keeps no data",
        "Priming, CloseMessage",
        "Priming, CloseAsked",
        "Active, CloseAsked",
    ),
    "units come free one at a time, so there is no second one to be had": _site(
        "has its effects twice", "Redeeming, UnitsFreed", "Active, UnitsFreed"
    ),
    "a token's signature was verified with the key that its parent confirms": (
        "claims.check_link: without `if child.issuer != parent.holder.kid`",
        "conflict.judge: without `child.issuer != parent.holder.kid`",
    ),
    "a root's `site` is made of the key that signed it: each of the two says what the other says": (
        _ROOT + "`if root.parent or root.issuer != root_issuer or root.site is None`",
        _ROOT + "`root.issuer != root_issuer`",
        _ROOT + "`if root.site.kid != root_issuer`",
    ),
    "only the site itself can sign such a root, and it signs none": (
        _ROOT + "`root.parent`",
        _ROOT + "`root.site is None`",
    ),
    "a reservation has a name, so the root claim, which is for none, is never taken for a ticket": (
        "Authority._check_chain: without `len(claims) < 2`",
    ),
    "what a ticket is worth does not depend on the order of its chains": (
        "Authority._check_ticket: without `read.sort(key=lambda one: one[0][-1].term)`",
    ),
    "a ticket of no chains is worth nothing, which is found next": (
        "Authority._check_ticket: without `1 <= len(ticket)`",
    ),
    "a chain is measured when it is read": (
        "claims.check_chain: without `if not 1 <= len(chain) <= CHAIN_LENGTH_MAX`",
        "claims.check_chain: without `1 <= len(chain)`",
        "claims.check_chain: without `len(chain) <= CHAIN_LENGTH_MAX`",
        "conflict.judge: without `if not above`",
    ),
    "what says that a lease is closed is taken whatever request it answers": _site(
        "keeps no data", "Nascent, CloseMessage", "Redeeming, CloseMessage"
    ),
    "no key is replaced here": (
        "Authority._check_chain: without `self.check_signers(claims[1:], now, self._spending)`",
    ),
    "nobody comes back from a backup here": (
        "Role._receive: without `self._check_held(message, known=key in self.leases)`",
        "Role._receive: without `self._check_held(message, known=False)`",
        "Role._receive: without `if self.said_again(sender, heard, message, now)`",
    ),
    "the table refuses an extension there as busy, too": (
        (
            "Authority._extension: without `if record.state in"
            " (SiteState.REDEEMING, SiteState.PRIMING)`"
        ),
    ),
    "half a million leases are more than these worlds have": (
        (
            "Authority.newcomer: without `self.check_room(guest=sender.kid if isinstance(message,"
            " messages.Redeem) else '')`"
        ),
        "Authority.newcomer: without `self.check_room(sponsor=claims[0][1].issuer)`",
        "Broker.newcomer: without `self.check_room(guest=sender.kid, sponsor=sender.kid)`",
        "Broker.newcomer: without `self.check_room(sponsor=sender.kid)`",
    ),
    "no world lasts until delegations are forgotten": (
        "Authority.forget: without `self._resting.move(_ancestors(self.leases[key]), NOTHING)`",
    ),
    "one tick more or less: what is as old as the skew is refused with its envelope": (
        "Broker.newcomer: without `+ 1` in `now + 2 * self.me.skew + 1`",
    ),
    "a guest that brings a receipt for what is over is refused instead of not being heard": (
        "Broker._receipt: without `if sender.kid not in self.sites`",
    ),
    "a chain was read and checked when its delegation was taken": (
        "Broker._receipt: without `if root.site is None`",
    ),
    "what loading puts into the batch is stored already": (
        "Authority.loaded: without `super(Authority, self).loaded()`",
        "Broker.loaded: without `super(Broker, self).loaded()`",
    ),
    "guards against policies and callers that no world has: they would break their own step": (
        "Authority._assign: without `self._release(Release(unit=name, epoch=epoch), key, now)`",
        "Authority._take: without `if not unit.idle`",
        "Authority.fresh_epoch: without `if unit.owner is not None`",
        "Authority.retry: without `if lease.state is not SiteState.CLOSE_FAILED`",
    ),
    "no unit leaves the descriptor here": (
        "Authority._release: without `unit is None`",
        "Authority.retry: without `if gone`",
    ),
    "who waits is served in another order, or asked in vain": (
        (
            "Authority._serve_held: without `waiting.sort(key=lambda key:"
            " self.leases[key].state is not SiteState.ACTIVE)`"
        ),
        "Authority._serve_held: without `if not self.free[kind]`",
    ),
    "what is over takes room in memory, and nothing else": (
        "Authority._unspend: without `calendar.forget(tick)`",
    ),
    "here an answer comes with its delivery, never after the next message": (
        (
            "ServiceManager.undeliverable: without `if lease is None or"
            " lease.lines[peer].sent != message.n`"
        ),
        "ServiceManager.undeliverable: without `lease is None`",
        "ServiceManager.undeliverable: without `lease.lines[peer].sent != message.n`",
    ),
    "a holder is the sender, whose thumbprint is no longer than that": (
        "Role._receive: without `NAME_CHARACTERS_MAX >= len(message.holder)`",
        "Role._receive: without `UNPRINTABLE.search(message.holder)`",
    ),
    "who has acknowledged an answer has it; it is said again to peers that lost their books": (
        "Role._receive: without `self._keep_line(record, sender.kid, line.say_again(message.n))`",
        "Line.say_again: without `last.answers != n`",
        "Line.say_again: without `if last in self.unacked`",
    ),
    "an update that meant nothing means nothing again": (
        "Role._receive: without `self._keep_line(record, sender.kid, line.took(message.n))`",
    ),
    "what is asked for a second time is refused by the table, or by the ids of the claims": (
        "Role._receive: without `if arrival is Arrival.DUPLICATE`",
    ),
    "each state that sets a deadline has an arrow for it": (
        "Role.woken: without `self.keep('lease', key, replace(record, wake=None))`",
    ),
    "what was in the same volume was looked at before": (
        (
            "Account.follows: `place.volume >= self.place.volume` for"
            " `place.volume > self.place.volume`"
        ),
    ),
    "places are counted from 1": (
        (
            "Account.holds: `len(known) >= posting.place.number >= 0` for"
            " `len(known) >= posting.place.number > 0`"
        ),
    ),
    "a page is shown only if it is cited by its own number": (
        "Account.page: without `0` in `max(cited.number, 0)`",
    ),
    "one byte more or less": (
        (
            "convicting.conflict_of: `len(msgspec.json.encode(conflict)) < PROOF_BYTES_MAX` for"
            " `len(msgspec.json.encode(conflict)) <= PROOF_BYTES_MAX`"
        ),
    ),
    "what is redeemed is in no account yet: where all claims do not exceed, fewer do not, either": (
        "convicting._at: without `if not shown`",
    ),
    "the claim that is refused comes first, and without it there is room": (
        "convicting._at: `claim.account <= cited` for `claim.account < cited`",
    ),
    "what is said of the claims of other leases is not asked for": (
        "Broker._settled: without `+ 1` in `entry.end + 1`",
    ),
    "the story is for people": (
        (
            "Role.apply: without `self.tell(result.record, event.now, type(event).__name__, by,"
            " result.record.reason)`"
        ),
    ),
}

_BY_NAME = {name: reason for reason, names in REASONS.items() for name in names}


def reason_of(name: str) -> str | None:
    """Why this mutant is harmless, if it is listed."""
    return _BY_NAME.get(name)
