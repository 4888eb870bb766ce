"""How an authority shows that a broker sold too much: it finds the claims that can not all be true.

What it finds is a proof for everybody else (`core.conflict`), so it is held to the same judgement
before it is shown to anyone.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from shirako.actors.accounts import Accounts
from shirako.core.claims import Chain, Claim, Unfit
from shirako.core.conflict import CHILDREN_MAX, Conflict, allowed, heaviest, judge
from shirako.core.terms import Term
from shirako.trust import Verifier

PROOF_BYTES_MAX = 48 * 1024
"""What a refusal has room for."""


def conflict_of(
    chains: Iterable[Chain], above: Chain, term: Term, accounts: Accounts, verifier: Verifier
) -> Conflict | None:
    """A proof that the claims of `chains` exceed the last claim of `above` during `term`.

    Each chain goes through `above`. None: it can not be shown, for claims were given back of which
    we do not know any more whether the broker knew.
    """
    depth = len(above)
    parent = verifier.chain(above)[-1]
    tokens = {chain[depth]: None for chain in chains if chain[:depth] == above}
    below = {token: verifier.chain((*above, token))[-1] for token in tokens}
    starts = {claim.term.start for claim in below.values() if term.covers(claim.term.start)}
    for instant in sorted({term.start, *starts}):
        covering = {t: c for t, c in below.items() if c.term.covers(instant)}
        conflict = _at(instant, above, parent, covering, accounts)
        if conflict is None:
            continue
        try:
            judge(conflict, verifier.chain)
        except Unfit:
            continue
        if len(msgspec.json.encode(conflict)) <= PROOF_BYTES_MAX:
            return conflict
    return None


def _at(
    instant: int, above: Chain, parent: Claim, covering: dict[str, Claim], accounts: Accounts
) -> Conflict | None:
    """What these claims, which all cover the instant, show; the judge has not seen it yet."""
    if not covering:
        return None
    newest = max(claim.account for claim in covering.values())
    page = accounts.page(parent.digest, newest)
    if page is None:
        return None
    shown = heaviest(covering.values(), page, allowed(parent))
    if not 1 <= len(shown) < CHILDREN_MAX:
        return None
    # fewer claims may cite less, and what they cite gives back no more; if that is forgotten, one
    # more claim that cites what is known takes nothing from the sum
    chosen = {claim.digest for claim in shown}
    less = accounts.page(parent.digest, max(claim.account for claim in shown))
    if less is None:
        chosen.add(max(covering.values(), key=lambda claim: claim.account).digest)
    else:
        page = less
    return Conflict(
        parent=above,
        children=tuple(t for t, claim in covering.items() if claim.digest in chosen),
        instant=instant,
        page=page,
    )
