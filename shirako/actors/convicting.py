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
    """What these claims, which all cover the instant, show; the judge has not seen it yet.

    Claims that cite what was never written, or is forgotten, can not be shown with others that cite
    less: so those that cite no more than what is known are tried, from the newest on.
    """
    for cited in sorted({claim.account for claim in covering.values()}, reverse=True):
        page = accounts.page(parent.digest, cited)
        if page is None:
            continue
        citing = {t: claim for t, claim in covering.items() if claim.account <= cited}
        shown = {claim.digest for claim in heaviest(citing.values(), page, allowed(parent))}
        if not shown:
            continue
        if all(claim.account < cited for claim in citing.values() if claim.digest in shown):
            # one that cites this page has to be among them, and takes nothing from the sum
            shown.add(next(c.digest for c in citing.values() if c.account == cited))
        if len(shown) <= CHILDREN_MAX:
            children = tuple(t for t, claim in citing.items() if claim.digest in shown)
            return Conflict(parent=above, children=children, instant=instant, page=page)
    return None
