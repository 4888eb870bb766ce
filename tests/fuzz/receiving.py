"""An envelope comes to a role in the middle of its work, and whatever it says:

- what is refused leaves the books as they were;
- what is taken is written such that the actor starts from it again, as it was (DURABLE);
- what is taken can be shown to people, and what is said of it can be said;
- life goes on: timers come due and handlers end, and no step breaks.
"""

from __future__ import annotations

from typing import Any

from shirako.actors.authority import Authority
from shirako.actors.role import Batch, Role
from shirako.actors.service_manager import ServiceManager
from shirako.api import views
from shirako.core import messages
from shirako.core.machine import HandlerEnded
from shirako.core.messages import MESSAGE_BYTES_MAX
from shirako.transport.envelope import Refusal, Rejected, acknowledge, open_envelope
from shirako.trust import PublicKey
from tests.core.cast import SKEW, key_of
from tests.fuzz.books import books
from tests.fuzz.life import Situation, loaded

WAKES_MAX = 6
ANSWER_BYTES_MAX = 4000
"""A refusal is no copy of what came."""
PROOFS = ("conflict", "posting", "volume")
"""Kinds that a refusal may write: what is signed and proves something is kept, and that is all."""


def receive(situation: Situation, envelope: bytes) -> str:
    """Refused with which code, or `taken`. Raises AssertionError, or what broke."""
    role = situation.role()
    me = key_of(situation.receiver).public.kid
    pinned = {kid: PublicKey(party.x) for kid, party in role.pinned.items()}
    try:
        opened = open_envelope(envelope, me, situation.now * 1000, SKEW * 1000, pinned)
    except Rejected as rejected:
        return rejected.kind
    before = _without_proofs(role)
    for message in opened.messages:
        refusal = (
            message
            if isinstance(message, Refusal)
            else role.receive(opened.sender, message, situation.now)
        )
    if refusal is None:
        _go_on(situation, role)
        return "taken"
    key = key_of(situation.receiver)
    said = acknowledge(key, opened.sender.kid, 1, 1, (refusal,))
    if len(said) > ANSWER_BYTES_MAX and refusal.conflict is None:
        raise AssertionError(f"a refusal of {len(said)} bytes")
    batch = role.take_batch()
    written = [kind for kind, _ in batch.changed if kind not in PROOFS]
    if written or batch.entries or _without_proofs(role) != before:
        raise AssertionError(f"refused as {refusal.code}, and changed {written}")
    return refusal.code


def _without_proofs(role: Role[Any]) -> Any:
    return {
        name: part for name, part in books(role).items() if name not in ("conflicts", "accounts")
    }


def _go_on(situation: Situation, role: Role[Any]) -> None:
    ledger = {(kind, key): body for kind, key, body in situation.ledger}
    now = situation.now
    role.settle(now)
    _commit(situation, role, ledger)
    for _ in range(WAKES_MAX):
        for key, record in list(role.leases.items()):
            for work in record.work:
                role.handler_ended(key, HandlerEnded(now=now, work=work, ok=True))
        due = [(one.wake, key) for key, one in role.leases.items() if one.wake is not None]
        if due:
            now, key = max(now, min(due)[0]), min(due)[1]
            role.woken(key, now)
        role.settle(now)
    _commit(situation, role, ledger)


def _commit(situation: Situation, role: Role[Any], ledger: dict[tuple[str, str], bytes]) -> None:
    """Write what changed, start again from it, and compare; show and say all that there is."""
    role.flush()
    batch: Batch = role.take_batch()
    for kind, key, body in batch.writes():
        if body is None:
            ledger.pop((kind, key), None)
        else:
            ledger[kind, key] = body
    again = loaded(situation.receiver, tuple((*name, body) for name, body in ledger.items()))
    for kind in role.kinds:
        if not _same(role, again, kind):
            raise AssertionError(f"another {kind} after a crash")
    for _, _, kept in role.kept():
        for line in kept.lines.values():
            for message in line.unacked:
                said = messages.encode(message)
                if len(said) > MESSAGE_BYTES_MAX or messages.decode(said) != message:
                    raise AssertionError(f"{len(said)} bytes are to be said, and can not be")
    for entry in batch.entries:
        views.story_line(entry).model_dump_json()
    _show(role)


def _same(role: Role[Any], again: Role[Any], kind: str) -> bool:
    name = {"lease": "leases", "unit": "units", "delegation": "delegations"}.get(kind)
    return name is None or books(role)[name] == books(again)[name]


def _show(role: Role[Any]) -> None:
    for record in role.leases.values():
        if isinstance(role, ServiceManager):
            views.lease(record, own=True).model_dump_json()
        elif isinstance(role, Authority):
            views.site_lease(record).model_dump_json()
        else:
            views.broker_lease(record).model_dump_json()
