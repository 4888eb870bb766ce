"""The simulation finds what it is for: faults that are put into the actors on purpose.

Each is a mistake that somebody could make in one line. It must be found within a few seeds, and by
the check of the invariant that it breaks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from msgspec.structs import replace as changed

from shirako.actors import authority, broker, convicting, performing, recovering, restored, role
from shirako.actors.accounts import Accounts
from shirako.actors.actor import Actor
from shirako.actors.courier import Courier
from shirako.actors.handling import Outcome
from shirako.actors.lineages import Lineages
from shirako.core import authority as site_machine
from shirako.core import broker as broker_machine
from shirako.core import guest as guest_machine
from shirako.core import machine
from shirako.core.account import START, Page
from shirako.core.authority import Release, Settled, SiteState, UnitPhase
from shirako.core.broker import BrokerState, Free
from shirako.core.exchange import Arrival, Line
from shirako.core.machine import Arrow, Step, Woken
from shirako.simulation.faults import ALL_FAULTS, Faults
from shirako.simulation.run import run

Patch = pytest.MonkeyPatch


@dataclass(frozen=True)
class Mutant:
    """A mistake, and what it breaks."""

    make: Callable[[Patch], None]
    breaks: tuple[str, ...]
    """Invariants that it breaks; one of their checks has to find it."""
    seeds: int = 20
    faults: Faults = ALL_FAULTS


def _action(patch: Patch, table: Any, state: Any, event: Any, action: Any) -> None:
    """Let an event do something else in one state."""
    states: tuple[Any, ...] = tuple(type(state).__members__.values())
    patch.setitem(table, (state, event), Arrow(action, states))


# The mistakes ---------------------------------------------------------------------------------


def released_before_teardown(patch: Patch) -> None:
    def close(r: Any, e: Any, me: Any) -> Any:
        step = site_machine.close_by_guest(r, e, me)
        early = tuple(Release(unit=a.unit, epoch=a.epoch) for a in r.live)
        return Step(step.record, (*step.effects, *early))

    event = site_machine.CloseMessage
    _action(patch, site_machine.TABLE, SiteState.ACTIVE, event, close)


def said_before_it_is_committed(patch: Patch) -> None:
    commit = Actor._commit

    async def late(self: Any, batch: Any) -> None:
        self._perform(batch)
        await commit(self, batch)

    patch.setattr(Actor, "_commit", late)


def acknowledged_before_it_is_committed(patch: Patch) -> None:
    submit = Actor.submit
    kept: list[asyncio.Future[Any]] = []

    async def hasty(self: Any, act: Any) -> Any:
        kept.append(asyncio.ensure_future(submit(self, act)))
        await asyncio.sleep(0)
        return ()

    patch.setattr(Actor, "submit", hasty)


def told_before_it_is_committed(patch: Patch) -> None:
    step_all = Actor._step_all

    def impatient(self: Any, items: Any, *rest: Any) -> bool:
        done = step_all(self, items, *rest)
        for item in items if done else ():
            if item.done is not None and not item.done.done() and item.error is None:
                item.done.set_result(item.outcome)
        return done

    patch.setattr(Actor, "_step_all", impatient)


def sold_without_booking(patch: Patch) -> None:
    patch.setattr(broker.Broker, "_book", lambda self, grant: None)


def freed_without_a_receipt(patch: Patch) -> None:
    """The broker believes a guest that says it gives a ticket back."""

    def believe(r: Any, e: Any, me: Any) -> Any:
        step = broker_machine.take_back(r, e, me)
        if e.receipt is None and r.grants:
            free = tuple(
                Free(delegation=g.delegation, units=g.units, term=g.term) for g in r.grants
            )
            return Step(changed(step.record, grants=()), free)
        return step

    event = broker_machine.Relinquished
    _action(patch, broker_machine.TABLE, BrokerState.TICKETED, event, believe)


def redeemed_twice(patch: Patch) -> None:
    patch.setattr(authority.Authority, "_check_unspent", lambda *_: None)


def redeemed_by_a_thief(patch: Patch) -> None:
    check = authority.Authority._check_chain

    def blind(self: Any, sender: Any, rid: str, chain: Any, now: int) -> Any:
        try:
            return check(self, sender, rid, chain, now)
        except role.Refused as refused:
            if refused.code != "stolen":
                raise
            return self.verifier.chain(chain)

    patch.setattr(authority.Authority, "_check_chain", blind)
    strangers_are_admitted(patch)  # which would catch it otherwise


def wider_than_its_parent(patch: Patch) -> None:
    def lax(chain: Any, root_issuer: str) -> Any:
        return chain[-1]

    patch.setattr(authority, "check_chain", lax)


def never_woken_at_the_end(patch: Patch) -> None:
    # not taken out of the table: it would come back at another place, and others read its order
    _action(patch, site_machine.TABLE, SiteState.ACTIVE, Woken, lambda r, _e, _me: Step(r))


def numbers_are_not_looked_at(patch: Patch) -> None:
    patch.setattr(Line, "arrival", lambda self, n: Arrival.NEW)


def not_cleaned(patch: Patch) -> None:
    async def lazy(self: Any, pool: Any, job: Any, tell: Any) -> Outcome:
        return Outcome(checks=("account_gone",))

    patch.setattr(performing.SitePerformer, "_teardown", lazy)


def handed_out_from_quarantine(patch: Patch) -> None:
    quarantine = authority.Authority._quarantine

    def forgiving(self: Any, effect: Any, *rest: Any) -> None:
        quarantine(self, effect, *rest)
        unit = self.units.get(effect.unit)
        if unit is not None and unit.quarantined:
            self._keep_unit(changed(unit, quarantined=""))

    patch.setattr(authority.Authority, "_quarantine", forgiving)


def units_are_not_stored(patch: Patch) -> None:
    writes = role.Batch.writes

    def forgetful(self: Any) -> Any:
        return [write for write in writes(self) if write.kind != "unit"]

    patch.setattr(role.Batch, "writes", forgetful)


def fewer_units_than_asked_for(patch: Patch) -> None:
    def make_do(r: Any, e: Any, me: Any) -> Any:
        if any(a.phase is UnitPhase.ACTIVE for a in r.live):
            return site_machine._active_if_ready(changed(r, least_units=1), me)
        return site_machine.no_other(r, e, me)

    event = site_machine.Unassigned
    _action(patch, site_machine.TABLE, SiteState.PRIMING, event, make_do)


def strangers_are_admitted(patch: Patch) -> None:
    patch.setattr(authority.Authority, "admit", lambda self, sender, record, message: None)


def everybody_gets_the_same_keys(patch: Patch) -> None:
    site_job = performing.site_job
    keys: list[tuple[str, ...]] = []

    def mixed_up(lease: Any, *rest: Any) -> Any:
        keys.append(lease.keys)
        return replace(site_job(lease, *rest), keys=keys[0])

    patch.setattr(performing, "site_job", mixed_up)


def no_pause_between_tries(patch: Patch) -> None:
    patch.setattr(Courier, "_pause", lambda self: 0.01)


def epochs_repeat(patch: Patch) -> None:
    take = authority.Authority._take

    def stale(self: Any, name: str, owner: Any, now: int) -> int:
        take(self, name, owner, now)
        self._keep_unit(changed(self.units[name], epoch=1))
        return 1

    patch.setattr(authority.Authority, "_take", stale)


def nobody_hands_the_receipt_on(patch: Patch) -> None:
    said = machine.say

    def silent(record: Any, to: str, message: Any) -> Any:
        return record if to == record.broker.kid else said(record, to, message)

    patch.setattr(site_machine, "say", silent)
    patch.setattr(guest_machine, "_relinquish", lambda r: r)


def closed_because_nobody_answers(patch: Patch) -> None:
    """The guest calls a lease closed as soon as it has asked for it."""
    say_close = guest_machine._say_close

    def at_once(r: Any, reason: str, me: Any) -> Any:
        record = say_close(r, reason, me).record
        return Step(guest_machine._end(record, guest_machine.S.CLOSED, reason))

    patch.setattr(guest_machine, "_say_close", at_once)
    for where, arrow in tuple(guest_machine.TABLE.items()):
        _action(patch, guest_machine.TABLE, *where, arrow.action)


def a_crash_loses_what_was_to_be_said(patch: Patch) -> None:
    """Recovery does not look at what is still undelivered."""
    perform = Actor._perform_for
    load = Actor._load

    def deaf(self: Any) -> None:
        self.recovering = True
        load(self)
        self.recovering = False

    def silent(self: Any, kind: str, key: Any, kept: Any) -> None:
        if kept is not None and getattr(self, "recovering", False):
            kept = changed(kept, lines={})
        perform(self, kind, key, kept)

    patch.setattr(Actor, "_load", deaf)
    patch.setattr(Actor, "_perform_for", silent)


def never_forgotten(patch: Patch) -> None:
    patch.setattr(role.Role, "forget", lambda self, key: None)


def extended_by_fewer_units(patch: Patch) -> None:
    grant = broker.Broker._grant

    def short(self: Any, lease: Any, asked: Any, number: int, piece: Any) -> Any:
        return grant(
            self, lease, asked, number, piece._replace(units=1) if asked.extends else piece
        )

    patch.setattr(broker.Broker, "_grant", short)


def nothing_is_cited(patch: Patch) -> None:
    """As if no receipt had ever come: what it sells again seems to be sold twice."""
    patch.setattr(Accounts, "place", lambda *_: START)


def any_receipt_frees(patch: Patch) -> None:
    """Wherever in the account it stands, so that nobody can be shown that it was there."""
    patch.setattr(Accounts, "are_early", lambda *_: False)
    patch.setattr(Accounts, "follow", lambda *_: True)


def receipts_are_taken_in_any_order(patch: Patch) -> None:
    """What does not come next in the account is acknowledged, and never comes again."""
    patch.setattr(Accounts, "are_early", lambda *_: False)


def a_receipt_without_its_place(patch: Patch) -> None:
    apply = authority.Authority.apply

    def silent(self: Any, record: Any, event: Any, by: str) -> Any:
        if isinstance(event, Settled):
            event = changed(event, postings=())
        return apply(self, record, event, by)

    patch.setattr(authority.Authority, "apply", silent)


def proofs_without_the_receipts(patch: Patch) -> None:
    """They prove nothing, and the site finds that out before it shows them to anybody."""
    at = convicting._at

    def bare(*args: Any) -> Any:
        conflict = at(*args)
        return conflict and changed(conflict, page=Page(volume=1))

    patch.setattr(convicting, "_at", bare)


def proofs_that_are_not_looked_at(patch: Patch) -> None:
    proofs_without_the_receipts(patch)
    patch.setattr(convicting, "judge", lambda *_: None)


def retired_keys_speak(patch: Patch) -> None:
    patch.setattr(Lineages, "check_speaker", lambda *_: None)


def retired_keys_sign(patch: Patch) -> None:
    patch.setattr(Lineages, "check_statement", lambda *_: None)


def new_keys_are_not_noted(patch: Patch) -> None:
    meet = Lineages.meet

    def careless(self: Any, identity: str, shown: Any) -> Any:
        meet(self, identity, shown)
        return {}

    patch.setattr(Lineages, "meet", careless)


def new_keys_are_forgotten_at_a_start(patch: Patch) -> None:
    patch.setattr(Lineages, "load", lambda *_: None)


def what_a_retired_key_has_signed_is_worth_nothing(patch: Patch) -> None:
    def strict(self: Any, identity: str, shown: Any, _now: int) -> None:
        self.check_speaker(identity, shown)

    patch.setattr(Lineages, "check_statement", strict)


def nothing_is_held_after_a_restore(patch: Patch) -> None:
    patch.setattr(role.Role, "held", property(lambda _: False))


def numbers_of_before_a_restore_are_used_again(patch: Patch) -> None:
    patch.setattr(restored, "renumbered", lambda _before, after, _numbers: dict(after))


def resold_after_a_restore(patch: Patch) -> None:
    patch.setattr(broker.Broker, "sold_until", lambda _: {})


def units_are_not_looked_at_after_a_restore(patch: Patch) -> None:
    patch.setattr(recovering, "_suspects", lambda *_: iter(()))


CHEATED = replace(ALL_FAULTS, cheating=1.0, nonsense=1.0)
ALONE = replace(ALL_FAULTS, guest_vanishes=1.0)
PILED_UP = replace(ALL_FAULTS, backlog=1.0)
RESTORED = replace(ALL_FAULTS, restored=1.0)
REKEYED = replace(ALL_FAULTS, key_replaced=1.0)

MUTANTS: dict[str, Mutant] = {
    "released before teardown": Mutant(released_before_teardown, ("EXCLUSIVE", "CLEAN")),
    "said before it is committed": Mutant(said_before_it_is_committed, ("DURABLE",)),
    "acknowledged before it is committed": Mutant(
        acknowledged_before_it_is_committed, ("DURABLE",)
    ),
    "told before it is committed": Mutant(told_before_it_is_committed, ("DURABLE",)),
    "sold without booking": Mutant(sold_without_booking, ("CONSERVE",)),
    "freed without a receipt": Mutant(freed_without_a_receipt, ("CONSERVE",), 60),
    "redeemed twice": Mutant(redeemed_twice, ("ROOTED",), faults=CHEATED),
    "redeemed by a thief": Mutant(redeemed_by_a_thief, ("ROOTED", "ISOLATED"), faults=CHEATED),
    "wider than its parent": Mutant(wider_than_its_parent, ("ROOTED",), faults=CHEATED),
    "never woken at the end": Mutant(never_woken_at_the_end, ("ENDS",), faults=ALONE),
    "numbers are not looked at": Mutant(numbers_are_not_looked_at, ("DURABLE",)),
    "not cleaned": Mutant(not_cleaned, ("CLEAN",)),
    "handed out from quarantine": Mutant(handed_out_from_quarantine, ("CLEAN", "EXCLUSIVE")),
    "units are not stored": Mutant(units_are_not_stored, ("EXCLUSIVE", "CLEAN")),
    "fewer units than asked for": Mutant(fewer_units_than_asked_for, ("ATOMIC",), 40),
    "strangers are admitted": Mutant(strangers_are_admitted, ("ISOLATED",), 60),
    "everybody gets the same keys": Mutant(everybody_gets_the_same_keys, ("ISOLATED",)),
    "no pause between tries": Mutant(no_pause_between_tries, ("BOUNDED",)),
    "epochs repeat": Mutant(epochs_repeat, ("EXCLUSIVE",)),
    "nobody hands the receipt on": Mutant(nobody_hands_the_receipt_on, ("DURABLE",)),
    "a crash loses what was to be said": Mutant(
        a_crash_loses_what_was_to_be_said, ("DURABLE", "ENDS"), 40
    ),
    "never forgotten": Mutant(never_forgotten, ("BOUNDED",), 40),
    "extended by fewer units": Mutant(extended_by_fewer_units, ("ATOMIC",), 40),
    "closed because nobody answers": Mutant(closed_because_nobody_answers, ("DURABLE",)),
    "nothing is cited": Mutant(nothing_is_cited, ("ROOTED",)),
    "any receipt frees": Mutant(any_receipt_frees, ("ROOTED",)),
    "receipts are taken in any order": Mutant(
        receipts_are_taken_in_any_order, ("DURABLE",), faults=PILED_UP
    ),
    "a receipt without its place": Mutant(a_receipt_without_its_place, ("DURABLE",)),
    "proofs without the receipts": Mutant(proofs_without_the_receipts, ("ROOTED",), faults=CHEATED),
    "proofs that are not looked at": Mutant(
        proofs_that_are_not_looked_at, ("ROOTED",), faults=CHEATED
    ),
    "nothing is held after a restore": Mutant(
        nothing_is_held_after_a_restore, ("CLEAN", "EXCLUSIVE"), faults=RESTORED
    ),
    "numbers of before a restore are used again": Mutant(
        numbers_of_before_a_restore_are_used_again, ("DURABLE",), faults=RESTORED
    ),
    "resold after a restore": Mutant(resold_after_a_restore, ("CONSERVE",), 40, RESTORED),
    "units are not looked at after a restore": Mutant(
        units_are_not_looked_at_after_a_restore, ("CLEAN", "EXCLUSIVE"), faults=RESTORED
    ),
    "retired keys speak": Mutant(retired_keys_speak, ("ROOTED",), faults=REKEYED),
    "retired keys sign": Mutant(retired_keys_sign, ("ROOTED",), faults=REKEYED),
    "new keys are not noted": Mutant(new_keys_are_not_noted, ("ROOTED",), faults=REKEYED),
    "new keys are forgotten at a start": Mutant(
        new_keys_are_forgotten_at_a_start, ("ROOTED",), faults=REKEYED
    ),
    "what a retired key has signed is worth nothing": Mutant(
        what_a_retired_key_has_signed_is_worth_nothing, ("ROOTED",), 40, faults=REKEYED
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mistake_is_found(name: str, monkeypatch: Patch) -> None:
    mutant = MUTANTS[name]
    mutant.make(monkeypatch)
    for seed in range(1, mutant.seeds + 1):
        found = {violation.invariant for violation in run(seed, mutant.faults).violations}
        if found & set(mutant.breaks):
            return
    raise AssertionError(f"not found within {mutant.seeds} seeds")
