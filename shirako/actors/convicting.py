"""How an authority shows that a broker sold too much: it finds the claims that can not all be true.

What it finds is a proof for everybody else (`core.conflict`), so it is held to the same judgement
before it is shown to anyone. A broker that sells too much may have sold a great deal, and may sign
what it likes: the search looks once at each claim that is redeemed, and has an end (BOUNDED).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from heapq import nlargest

import msgspec

from shirako.actors.accounts import Accounts
from shirako.core.account import Citation, Page
from shirako.core.authority import Spent
from shirako.core.claims import Chain, Claim, Unfit
from shirako.core.conflict import CHILDREN_MAX, Conflict, allowed, heaviest, judge
from shirako.trust import Verifier

PROOF_BYTES_MAX = 48 * 1024
"""What a refusal has room for."""
INSTANTS_MAX = 4
"""At which a proof is looked for, those first at which most is redeemed."""
READ_MAX = 2 * CHILDREN_MAX
"""Claims that are read again for one instant, those first below which most is redeemed."""
PAGES_MAX = 8
"""Of an account, that are opened for one proof: an honest broker's claims need one."""


class _Pages:
    """Pages of one account, each opened once."""

    def __init__(self, accounts: Accounts, parent: str) -> None:
        self._accounts = accounts
        self._parent = parent
        self._opened: dict[Citation, Page | None] = {}

    def page(self, cited: Citation) -> Page | None:
        """What the citation stands for; None: it is not known, or too many were asked for."""
        if cited not in self._opened:
            if len(self._opened) >= PAGES_MAX:
                return None
            self._opened[cited] = self._accounts.page(self._parent, cited)
        return self._opened[cited]


def conflict_of(
    spent: Collection[Spent],
    above: Chain,
    instants: Iterable[int],
    accounts: Accounts,
    verifier: Verifier,
) -> Conflict | None:
    """A proof that these claims exceed the last claim of `above` at one of the instants.

    Each claim was carved out of that one, or out of others below it. None: it can not be shown, for
    claims were given back of which we do not know any more whether the broker knew.
    """
    parent = verifier.chain(above)[-1]
    pages = _Pages(accounts, parent.digest)
    for instant in instants:
        tokens = _fullest(spent, len(above), instant)
        covering = {token: verifier.chain((*above, token))[-1] for token in tokens}
        conflict = _at(instant, above, parent, covering, pages)
        if conflict is None:
            continue
        try:
            judge(conflict, verifier.chain)
        except Unfit:
            continue
        if len(msgspec.json.encode(conflict)) <= PROOF_BYTES_MAX:
            return conflict
    return None


def _fullest(spent: Iterable[Spent], depth: int, instant: int) -> list[str]:
    """The claims at this depth of their chains (0: the root), below which most is redeemed."""
    units: Counter[str] = Counter()
    for one in spent:
        if one.term.covers(instant):
            units[one.tokens[depth - 1]] += one.units  # a claim's tokens are those below its root
    return nlargest(READ_MAX, units, key=units.__getitem__)


def _at(
    instant: int, above: Chain, parent: Claim, covering: dict[str, Claim], pages: _Pages
) -> Conflict | None:
    """What these claims, which all cover the instant, show; the judge has not seen it yet.

    Claims that cite what was never written, or is forgotten, can not be shown with others that cite
    less: so those that cite no more than what is known are tried, from the newest on.
    """
    for cited in sorted({claim.account for claim in covering.values()}, reverse=True):
        page = pages.page(cited)
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
