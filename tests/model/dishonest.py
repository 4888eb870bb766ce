"""What dishonest guests, brokers and thieves present; every signature in it holds.

An item is a message that somebody may send at any time, made from real tokens: those that the
honest actors gave out so far, and those that a dishonest broker (with the honest one's key) or
another site signs. `never`: whoever takes it, nothing that is held may change by it. The others
may be taken once or until there is no more; what all of them bought together is held against
ROOTED in every state (`invariants.check_site`).

The thief is a guest of the same broker; it has a lease of its own somewhere, and envy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from shirako.actors.authority import Unit
from shirako.core import messages
from shirako.core.account import Account, Entry, Posting
from shirako.core.authority import SiteLease, SiteState
from shirako.core.broker import BrokerLease
from shirako.core.claims import Chain, Claim, Lease, Party, Receipt, Ticket
from shirako.core.delegation import Delegation
from shirako.core.guest import GuestLease, GuestState
from shirako.core.messages import Message
from shirako.core.terms import Term
from shirako.trust import digest
from tests.core.cast import TYPE, key_of, me_of, party_of

BEGIN, END, LONGER = 100, 140, 180
WIDE = Term(90, 400)
LARGE = "node.large"
"""A second type of the site, delegated as well."""
GONE = "node.gone"
"""A type whose pool has left the site's descriptor after it was delegated."""
LATER = 50
"""A number that is new to everybody."""


@dataclass(frozen=True)
class Item:
    """Something that somebody presents."""

    name: str
    sender: str
    to: str
    message: Message
    never: str = "ROOTED"
    """The invariant that is broken if this changes what anybody holds; empty: it may."""


# Tokens -----------------------------------------------------------------------------------------


@cache
def root(kind: str = TYPE, units: int = 3, name: str = "d1", signer: str = "site") -> str:
    """A root claim for the broker: the site's own delegation, or somebody's invention."""
    claim = Claim(
        jti=name,
        issuer=key_of(signer).public.kid,
        holder=party_of("broker"),
        type=kind,
        units=units,
        term=WIDE,
        digest="",
        site=party_of(signer),
    )
    return me_of(signer).sign_claim(claim)


def delegations() -> tuple[Delegation, ...]:
    """What the site has delegated besides the units that the honest lease is on."""
    return tuple(
        Delegation(
            id=name,
            holder=party_of("broker"),
            type=kind,
            units=units,
            term=WIDE,
            chain=(root(kind, units, name),),
        )
        for kind, units, name in ((LARGE, 2, "d2"), (GONE, 1, "d3"))
    )


def chain(
    *,
    below: Chain = (),
    signer: str = "broker",
    holder: str = "thief",
    rid: str = "X",
    jti: str = "forged",
    **other: Any,
) -> Chain:
    """A good claim on one unit for the thief's reservation, but for what is said otherwise."""
    above = below or (root(),)
    said: dict[str, Any] = {
        "type": TYPE,
        "units": 1,
        "term": Term(BEGIN, END),
        "parent": digest(above[-1]),
        **other,
    }
    claim = Claim(
        jti=jti,
        issuer=key_of(signer).public.kid,
        holder=party_of(holder),
        digest="",
        reservation=rid,
        **said,
    )
    return (*above, me_of(signer).sign_claim(claim))


def share(units: int = 1, **other: Any) -> Chain:
    """A share that the broker gave to a broker below it."""
    return chain(holder="below", rid="", units=units, term=Term(BEGIN, LONGER), **other)


def steps(*terms: Term, jti: str = "step", **other: Any) -> Ticket:
    """One chain a term; ids of their own."""
    return tuple(chain(term=term, jti=f"{jti}{n}", **other) for n, term in enumerate(terms))


# Messages ---------------------------------------------------------------------------------------


def redeem(
    ticket: Ticket, *, sender: str = "thief", rid: str = "X", holder: str = "", n: int = LATER
) -> messages.Redeem:
    holder = holder or sender
    return messages.Redeem(
        rid=rid, holder=party_of(holder).kid, n=n, ticket=ticket, slice="s", least_units=1
    )


def _wide_claims() -> Iterator[tuple[str, Ticket]]:
    """Tickets that a dishonest broker signs for a dishonest guest: none is worth anything."""
    yield "more units than its parent", (chain(units=4),)
    yield "another type than its parent", (chain(type=LARGE),)
    yield "a type without a pool", (chain(below=(root(GONE, 1, "d3"),), type=GONE),)
    yield "ends after its parent", (chain(term=Term(BEGIN, 401)),)
    yield "starts before its parent", (chain(term=Term(89, END)),)
    yield "allows more overbooking than its parent", (chain(overbooking=2.0),)
    yield "names no parent", (chain(parent=""),)
    yield "names another parent", (chain(parent="0" * 64),)
    yield "signed by the guest itself", (chain(signer="thief"),)
    yield "its term is over", (chain(term=Term(91, 99)),)
    yield "for another reservation", (chain(rid="Y"),)
    yield "for no reservation", (chain(rid=""),)
    yield "an extension as a ticket", (chain(extends="other"),)
    yield "a foreign root", (chain(below=(root(signer="rival"),)),)
    yield "a root that was never delegated", (chain(below=(root(name="d9"),)),)
    yield "nothing", ()
    yield "an empty chain", ((),)
    yield "the root alone", ((root(),),)
    yield "without its root", (chain()[1:],)
    yield "a gap", steps(Term(BEGIN, 120), Term(121, END))
    yield "an overlap", steps(Term(BEGIN, 121), Term(120, END))
    yield (
        "chains of different units",
        (
            chain(term=Term(BEGIN, 120), jti="c1"),
            chain(term=Term(120, END), jti="c2", units=2),
        ),
    )
    yield (
        "chains of different types",
        (
            chain(term=Term(BEGIN, 120), jti="c1"),
            chain(term=Term(120, END), jti="c2", type=LARGE, below=(root(LARGE, 2, "d2"),)),
        ),
    )
    yield "too many chains", steps(*(Term(t, t + 1) for t in range(BEGIN, BEGIN + 65)))
    yield "the same claim twice", (chain(jti="same"), chain(jti="same"))
    yield "more than its parent side by side", tuple(chain(jti=j, units=2) for j in ("s1", "s2"))
    yield (
        "chains of two brokers",
        (
            chain(term=Term(BEGIN, 120), jti="c1"),
            chain(term=Term(120, END), jti="c2", below=share(), signer="below"),
        ),
    )
    yield "carved out of a ticket", (chain(below=chain(rid="R"), signer="thief"),)
    yield "passes itself off as a root", (chain(site=party_of("site")),)
    yield "the root of a delegation in other words", (chain(below=(root(units=4),)),)
    below = share()
    yield (
        "more units than the broker below has",
        (chain(below=below, signer="below", units=2),),
    )
    yield (
        "more units than the broker above had",
        (chain(below=share(4), signer="below"),),
    )
    yield (
        "a broker below that overbooks by itself",
        (chain(below=share(overbooking=2.0), signer="below"),),
    )
    yield "too long a chain", (_long_chain(),)


def _long_chain() -> Chain:
    above: Chain = chain(holder="link0", rid="")
    for n in range(7):
        above = chain(below=above, signer=f"link{n}", holder=f"link{n + 1}", rid="")
    return chain(below=above, signer="link7")


@cache
def _forged_tickets() -> tuple[Item, ...]:
    items = [Item(f"a ticket: {what}", "thief", "site", redeem(t)) for what, t in _wide_claims()]
    in_anothers_name = redeem((chain(),), holder="guest1")
    items.append(Item("a good ticket in another's name", "thief", "site", in_anothers_name))
    unnumbered = redeem((chain(),), n=0)
    items.append(Item("a message without a number", "thief", "site", unnumbered))
    unprintable = redeem((chain(rid="X\0Y"),), rid="X\0Y")
    items.append(Item("a ticket for a name that no ledger can keep", "thief", "site", unprintable))
    nowhere = messages.ExtendLease(
        rid="X", holder=party_of("thief").kid, n=LATER, ticket=(chain(),)
    )
    items.append(Item("an extension of a lease that is not there", "thief", "site", nowhere))
    for n in (1, 2):
        ticket = (chain(jti=f"sibling{n}", rid=f"X{n}", units=2),)
        said = redeem(ticket, rid=f"X{n}")
        items.append(Item(f"sibling {n} of one parent", "thief", "site", said, never=""))
    for n in (1, 2):
        ticket = (chain(jti=f"low{n}", rid=f"Z{n}", below=share(), signer="below"),)
        said = redeem(ticket, rid=f"Z{n}")
        items.append(Item(f"sibling {n} of a share", "thief", "site", said, never=""))
        ticket = (chain(jti="once", rid=f"J{n}"),)
        said = redeem(ticket, rid=f"J{n}")
        items.append(Item(f"one ticket for reservation {n}", "thief", "site", said, never=""))
    return tuple(items)


# At the site ------------------------------------------------------------------------------------


def _stolen(lease: GuestLease) -> Iterator[Item]:
    """What the thief does with a ticket of somebody else's that it got hold of."""
    owner = lease.guest.kid
    rid, ticket = lease.id, lease.ticket
    yield Item("a stolen ticket", "thief", "site", redeem(ticket, rid=rid))
    in_their_name = messages.Redeem(
        rid=rid, holder=owner, n=LATER, ticket=ticket, slice="s", least_units=1
    )
    yield Item("a stolen ticket in its owner's name", "thief", "site", in_their_name)
    close = messages.Close(rid=rid, holder=party_of("thief").kid, n=LATER, ticket=ticket)
    yield Item("a stolen ticket, to void it", "thief", "site", close)
    close = messages.Close(rid=rid, holder=owner, n=LATER, ticket=ticket)
    yield Item("a close of somebody else's lease", "thief", "site", close, never="ISOLATED")
    longer = messages.ExtendLease(rid=rid, holder=owner, n=LATER, ticket=lease.extension)
    yield Item("an extension of somebody else's lease", "thief", "site", longer, never="ISOLATED")


def _forged_extensions(lease: GuestLease, site: SiteLease) -> Iterator[Item]:
    """What a guest presents as its extension."""
    rid, jti = lease.id, site.spent[0].jti

    def made(**other: Any) -> Ticket:
        said: dict[str, Any] = {
            "units": 2,
            "term": Term(END, LONGER),
            "extends": jti,
            "jti": "longer",
            **other,
        }
        return (chain(holder=lease.guest.name, rid=said.pop("rid", rid), **said),)

    wrong = {
        "begins after a gap": made(term=Term(END + 1, LONGER)),
        "begins before the end": made(term=Term(END - 1, LONGER)),
        "on fewer units": made(units=1),
        "on another type": made(type=LARGE, below=(root(LARGE, 2, "d2"),)),
        "of another lease": made(extends="other"),
        "that extends nothing": made(extends=""),
        "for another reservation": made(rid="Y"),
        "of somebody else's": (
            chain(units=2, term=Term(END, LONGER), extends=jti, rid=rid, jti="longer"),
        ),
        "of which one chain extends nothing": (
            *made(term=Term(END, 160)),
            *made(term=Term(160, LONGER), extends="", jti="further"),
        ),
        "on too many units side by side": (*made(), *made(jti="beside")),
        "that is the ticket once more": lease.ticket,
        "with the ticket's own id": made(jti=jti),
    }
    if site.state is not SiteState.ACTIVE:
        wrong["of a lease that is not active"] = made()
    for what, ticket in wrong.items():
        said = messages.ExtendLease(rid=rid, holder=lease.guest.kid, n=LATER, ticket=ticket)
        yield Item(f"an extension {what}", lease.guest.name, "site", said)
    as_ticket = redeem(made(rid="Y"), sender=lease.guest.name, rid="Y")
    yield Item("its extension as a ticket", lease.guest.name, "site", as_ticket)


# At the broker ----------------------------------------------------------------------------------


def _postings(lease: BrokerLease) -> tuple[Posting, ...]:
    """The first places of the accounts of what a lease rests on."""
    accounts = {digest(grant.chain[-2]): Account(digest(grant.chain[-2])) for grant in lease.grants}
    made = []
    for grant in lease.grants:
        account = accounts[digest(grant.chain[-2])]
        made.append(account.post(Entry(grant.jti, grant.term.end), BEGIN))
    return tuple(made)


def _receipt(signer: str, lease: BrokerLease, **other: Any) -> str:
    """A receipt that frees all of a lease, but for what is said otherwise."""
    said: dict[str, Any] = {
        "holder": lease.guest.kid,
        "reservation": lease.id,
        "claims": tuple(grant.jti for grant in lease.grants),
        "issuer": key_of(signer).public.kid,
        "postings": _postings(lease),
        **other,
    }
    receipt = Receipt(jti="r", units_freed=2, tick=BEGIN, redeemed=True, final=True, **said)
    return me_of(signer).sign_receipt(receipt)


def _at_broker(lease: BrokerLease) -> Iterator[Item]:
    rid, owner = lease.id, lease.guest.kid
    token = Lease(
        jti="l",
        issuer=key_of("site").public.kid,
        holder=owner,
        reservation=rid,
        type=TYPE,
        units=("n1",),
        term=Term(BEGIN, END),
    )
    receipts = {
        "by another site": _receipt("rival", lease),
        "by the guest itself": _receipt("guest1", lease),
        "of another reservation": _receipt("site", lease, reservation="Y"),
        "of another guest": _receipt("site", lease, holder=party_of("thief").kid),
        "that is a lease": me_of("site").sign_lease(token),
        "that is a ticket": lease.grants[0].chain[-1] if lease.grants else "x",
        "that names another issuer": _receipt("rival", lease, issuer=key_of("site").public.kid),
    }
    for what, receipt in receipts.items():
        said = messages.Relinquish(rid=rid, holder=owner, n=LATER, receipt=receipt)
        yield Item(f"a receipt {what}", "guest1", "broker", said)
    good = messages.Relinquish(rid=rid, holder=owner, n=LATER, receipt=_receipt("site", lease))
    yield Item("a receipt that a thief carries", "thief", "broker", good, never="ISOLATED")
    without = messages.Relinquish(rid=rid, holder=owner, n=LATER)
    yield Item("a thief gives it back", "thief", "broker", without, never="ISOLATED")
    longer = messages.ExtendTicket(rid=rid, holder=owner, n=LATER, end=LONGER, least_end=LONGER)
    yield Item("a thief extends it", "thief", "broker", longer, never="ISOLATED")


def _ticket_request(sender: str, holder: Party, rid: str) -> messages.TicketRequest:
    return messages.TicketRequest(
        rid=rid,
        holder=holder.kid,
        n=LATER,
        guest=holder,
        slice="s",
        type=TYPE,
        units=1,
        least_units=1,
        term=Term(BEGIN, LONGER),
    )


@cache
def _requests() -> tuple[Item, ...]:
    stranger, guest = party_of("stranger"), party_of("guest1")
    good = (root(TYPE, 3, "d7"),)
    far = chain(holder="broker", rid="")

    def push(
        ticket: Ticket, holder: str = "broker", rid: str = "d7", n: int = LATER
    ) -> messages.UpdateTicket:
        return messages.UpdateTicket(rid=rid, holder=party_of(holder).kid, n=n, ticket=ticket)

    over = Claim(
        jti="d7",
        issuer=key_of("site").public.kid,
        holder=party_of("broker"),
        type=TYPE,
        units=3,
        term=Term(80, 95),
        digest="",
        site=party_of("site"),
    )
    to_another = Claim(
        jti="d7",
        issuer=key_of("site").public.kid,
        holder=party_of("below"),
        type=TYPE,
        units=3,
        term=WIDE,
        digest="",
        site=party_of("site"),
    )
    return (
        Item(
            "a request of a stranger",
            "stranger",
            "broker",
            _ticket_request("stranger", stranger, "S"),
            never="ISOLATED",
        ),
        Item(
            "a request in another's name",
            "thief",
            "broker",
            _ticket_request("thief", guest, "S"),
            never="ISOLATED",
        ),
        Item(
            "a relinquishing in another's name",
            "thief",
            "broker",
            messages.Relinquish(rid="S", holder=guest.kid, n=LATER),
            never="ISOLATED",
        ),
        Item("a delegation of a stranger", "thief", "broker", push((good,))),
        Item(
            "a delegation of a site that is not known",
            "stranger",
            "broker",
            push(((root(signer="stranger"),),)),
        ),
        Item(
            "another supplier's delegation of the same name",
            "rival",
            "broker",
            push(((root(signer="rival"),),), rid="d1"),
        ),
        Item("the same delegation once more", "site", "broker", push(((root(),),), rid="d1")),
        Item(
            "an older snapshot of a delegation",
            "site",
            "broker",
            push(((root(units=9),),), rid="d1", n=1),
        ),
        Item(
            "a request with too long a name",
            "guest1",
            "broker",
            _ticket_request("guest1", guest, "S" * 65),
            never="BOUNDED",
        ),
        Item(
            "a request without a name",
            "guest1",
            "broker",
            _ticket_request("guest1", guest, ""),
            never="BOUNDED",
        ),
        Item("a delegation that a guest carries", "guest1", "broker", push((good,))),
        Item("a delegation that its sender did not make", "site", "broker", push((far,))),
        Item("two delegations as one", "site", "broker", push((good, good))),
        Item("a delegation for another broker", "site", "broker", push((good,), "below")),
        Item(
            "another broker's delegation",
            "site",
            "broker",
            push(((me_of("site").sign_claim(to_another),),)),
        ),
        Item(
            "a delegation that is over",
            "site",
            "broker",
            push(((me_of("site").sign_claim(over),),)),
        ),
        Item(
            "a delegation that does not fit together",
            "site",
            "broker",
            push(((*good, me_of("broker").sign_claim(over)),)),
        ),
    )


# At the guest -----------------------------------------------------------------------------------


def _at_guest(lease: GuestLease) -> Iterator[Item]:
    rid, me = lease.id, lease.guest

    def ticket(sender: str, tokens: Ticket) -> tuple[str, Message]:
        said = messages.UpdateTicket(rid=rid, holder=me.kid, n=LATER, answers=1, ticket=tokens)
        return sender, said

    def made(**other: Any) -> Ticket:
        said: dict[str, Any] = {"holder": me.name, "rid": rid, "units": 2, **other}
        return (chain(**said),)

    lies: dict[str, tuple[str, Message]] = {
        "a ticket from a thief": ticket("thief", made()),
        "a ticket from its site": ticket("site", made()),
        "a ticket for somebody else": ticket("broker", made(holder="thief")),
        "a ticket for another reservation": ticket("broker", made(rid="Y")),
        "a ticket by another broker": ticket("broker", made(below=share(3), signer="below")),
        "a ticket on too many units": ticket("broker", made(units=3)),
        "a ticket on too few units": ticket("broker", made(units=1)),
        "a ticket on another type": ticket(
            "broker", made(type=LARGE, below=(root(LARGE, 2, "d4"),))
        ),
        "a ticket that does not fit together": ticket("broker", made(parent="0" * 64)),
        "a ticket on units of two sites": ticket(
            "broker",
            (*made(units=1), *made(units=1, jti="there", below=(root(signer="rival"),))),
        ),
        "a ticket without any claim": ticket("broker", ()),
    }
    token = {
        "jti": "l",
        "holder": me.kid,
        "reservation": rid,
        "type": TYPE,
        "units": ("n1", "n2"),
        "term": Term(BEGIN, 300),
    }

    def granted(sender: str, signer: str, **other: Any) -> tuple[str, Message]:
        said = Lease(**{"issuer": key_of(signer).public.kid, **token, **other})
        signed = me_of(signer).sign_lease(said)
        return sender, messages.UpdateLease(
            rid=rid, holder=me.kid, n=LATER, answers=lease.lines[SITE].sent, lease=signed
        )

    def over(signer: str, sender: str = "site", **other: Any) -> tuple[str, Message]:
        said: dict[str, Any] = {
            "holder": me.kid,
            "reservation": rid,
            "issuer": key_of(signer).public.kid,
            **other,
        }
        receipt = Receipt(
            jti="r", claims=(), units_freed=2, tick=BEGIN, redeemed=True, final=True, **said
        )
        signed = me_of(signer).sign_receipt(receipt)
        return sender, messages.UpdateLease(
            rid=rid, holder=me.kid, n=LATER, closed=True, receipt=signed
        )

    if SITE in lease.lines:
        lies |= {
            "a lease from a thief": granted("thief", "site"),
            "a lease that a thief has signed": granted("thief", "thief"),
            "a receipt that a thief has signed": over("thief", sender="thief"),
            "a lease from its broker": granted("broker", "site"),
            "a lease by another site": granted("site", "rival"),
            "a lease of somebody else": granted("site", "site", holder=party_of("thief").kid),
            "a lease for another reservation": granted("site", "site", reservation="Y"),
            "a receipt by another site": over("rival"),
            "a receipt for somebody else": over("site", holder=party_of("thief").kid),
            "a receipt for another reservation": over("site", reservation="Y"),
        }
    if lease.state is GuestState.EXTENDING_TICKET:
        lies["its ticket for an extension"] = ticket("broker", lease.ticket)
    for sender in {"broker", "site"} & {n for n in ("broker", "site") if _kid(n) in lease.lines}:
        stale = messages.Failed(
            rid=rid, holder=me.kid, n=LATER, answers=LATER, code="no", reason="no"
        )
        lies[f"a refusal of what the {sender} was not asked"] = (sender, stale)
    for what, (sender, said) in lies.items():
        yield Item(f"{what}, for the guest", sender, "guest1", said)


def _kid(name: str) -> str:
    return key_of(name).public.kid


SITE = _kid("site")

# What is held, and all together -----------------------------------------------------------------


def held(things: tuple[tuple[str, Any, Any], ...]) -> tuple[Any, ...]:
    """What of an actor's things anybody could gain or lose; numbers and words are not."""
    found: list[Any] = []
    for kind, key, value in things:
        if isinstance(value, SiteLease):
            found.append((key, value.state, value.term, value.spent, value.assignments))
        elif isinstance(value, BrokerLease):
            found.append((key, value.state, value.term, value.grants))
        elif isinstance(value, GuestLease):
            tickets = (value.ticket, value.extension, value.lease, value.receipt, value.held)
            found.append((key, value.state, value.term, value.units, *tickets))
        elif isinstance(value, Unit):
            found.append((value.name, value.owner, value.epoch, value.quarantined))
        elif isinstance(value, Delegation):
            found.append((kind, key, value.units, value.term, value.chain))
    return tuple(found)


def presented(
    guest: GuestLease | None, broker: BrokerLease | None, site: SiteLease | None
) -> Iterator[Item]:
    """What nobody may gain by, where guest, broker and site keep this of the honest lease."""
    yield from (item for item in _forged_tickets() if item.never)
    yield from _requests()
    if guest is not None:
        yield from _at_guest(guest)
        if guest.ticket:
            yield from _stolen(guest)
    if broker is not None:
        yield from _at_broker(broker)
    if guest is not None and site is not None and site.spent:
        yield from _forged_extensions(guest, site)


def taken_together() -> Iterator[Item]:
    """What may be taken, and only in part."""
    yield from (item for item in _forged_tickets() if not item.never)
