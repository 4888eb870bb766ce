"""What it costs to verify a ticket: its signatures, its claims, and that they fit together.

Tickets of two and of five claims, in four situations:

- `cold`: a verifier that has seen nothing, of actors whose keys this process never saw;
- `fresh`: a verifier that has seen nothing, of actors whose keys it saw before;
- `next`: another ticket of a broker whose share is known: one claim is new, as when an authority
  redeems one ticket after the other;
- `cached`: the same ticket once more.

The reference, in turns with these: bare Ed25519 verifications (cryptography) of as many signatures
over the same bytes, their keys parsed before. `next` is held to one of them, the others to all.
"""

from __future__ import annotations

import base64
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import cryptography
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from bench.rig import report
from shirako import trust
from shirako.core.claims import Chain, Claim, check_chain
from shirako.core.terms import Term
from shirako.curve import key_fault
from shirako.trust import PrivateKey, Verifier, party_of

DEPTHS = (2, 5)
TERM = Term(1_800_000_000, 1_800_086_400)
SITUATIONS = ("cold", "fresh", "next", "cached")


class Tickets:
    """A site, brokers one below the other, and tickets of the last one, of `depth` claims."""

    def __init__(self, depth: int, count: int) -> None:
        self._keys = [PrivateKey.generate() for _ in range(depth + 1)]
        above: Chain = ()
        for number in range(depth - 1):
            above = self._below(above, number, f"share{number}")
        self.chains = [self._below(above, depth - 1, f"ticket{n}") for n in range(count)]

    @property
    def site(self) -> str:
        return self._keys[0].public.kid

    def _below(self, above: Chain, number: int, jti: str) -> Chain:
        """One more claim, by key `number` for the next one."""
        key, last = self._keys[number], number == len(self._keys) - 2
        claim = Claim(
            jti=jti,
            issuer=key.public.kid,
            holder=party_of(self._keys[number + 1].public, f"https://actor{number}.test", "actor"),
            type="node.small",
            units=64 >> number,
            term=TERM,
            digest="",
            parent=trust.digest(above[-1]) if above else "",
            reservation=jti if last else "",
            site=None if above else party_of(key.public, "https://site.test", "site"),
        )
        return (*above, trust.sign_claim(key, claim))

    def signatures(self, chain: Chain) -> list[Callable[[], None]]:
        """Bare verifications of a chain's signatures."""
        found = []
        for key, token in zip(self._keys, chain, strict=False):
            bare = Ed25519PublicKey.from_public_bytes(_decoded(key.public.x))
            signed, _, signature = token.rpartition(".")
            found.append(_bare(bare, _decoded(signature), signed.encode()))
        return found


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _bare(key: Ed25519PublicKey, signature: bytes, signed: bytes) -> Callable[[], None]:
    return lambda: key.verify(signature, signed)


def verified(verifier: Verifier, chain: Chain, site: str) -> None:
    """What an authority does with a chain."""
    leaf = check_chain(verifier.chain(chain), site)
    if not leaf.reservation:
        raise RuntimeError("the chain is no ticket")


def mean_us(doing: Sequence[Callable[[], None]]) -> float:
    begun = time.perf_counter()
    for one in doing:
        one()
    return (time.perf_counter() - begun) / len(doing) * 1e6


def round_of(depth: int, count: int) -> dict[str, float]:
    """Microseconds each, in one round; every round has actors of its own."""
    strangers = [Tickets(depth, 1) for _ in range(count)]
    known = Tickets(depth, count + 1)
    first, *others = known.chains
    verifier = Verifier()
    verified(verifier, first, known.site)

    def doing(verifier: Verifier | None, chain: Chain, site: str) -> Callable[[], None]:
        return lambda: verified(verifier or Verifier(), chain, site)

    bare = known.signatures(first)
    key_fault.cache_clear()  # making the strangers' keys has checked them
    return {
        "cold": mean_us([doing(None, each.chains[0], each.site) for each in strangers]),
        "bare": mean_us([one for _ in range(count) for one in bare]),
        "fresh": mean_us([doing(None, first, known.site)] * count),
        "next": mean_us([doing(verifier, chain, known.site) for chain in others]),
        "cached": mean_us([doing(verifier, first, known.site)] * count),
    }


def measured(*, rounds: int, count: int) -> dict[str, Any]:
    figures: dict[str, float] = {}
    references: dict[str, float] = {}
    ratios: dict[str, float] = {}
    for depth in DEPTHS:
        taken: dict[str, list[float]] = defaultdict(list)
        for _ in range(rounds):
            for name, value in round_of(depth, count).items():
                taken[name].append(value)
        middle = {name: statistics.median(values) for name, values in taken.items()}
        references[f"bare_verifications_us.depth{depth}"] = middle["bare"] * depth
        references[f"bare_verification_us.depth{depth}"] = middle["bare"]
        for name in SITUATIONS:
            signatures = {"next": 1, "cached": 0}.get(name, depth)
            figures[f"{name}_us.depth{depth}"] = middle[name]
            figures[f"{name}_per_s.depth{depth}"] = 1e6 / middle[name]
            ratios[f"{name}_to_bare.depth{depth}"] = middle[name] / (
                middle["bare"] * (signatures or depth)
            )
    return {
        "figures": figures,
        "references": references,
        "ratios": ratios,
        "machine": report.machine(cryptography=cryptography.__version__),
    }


if __name__ == "__main__":
    chosen = report.options(__doc__, "fewer rounds and tickets").parse_args()
    size = (5, 60) if chosen.quick else (15, 300)
    report.show(measured(rounds=size[0], count=size[1]), as_json=chosen.json)
