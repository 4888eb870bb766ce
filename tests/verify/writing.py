"""The kit as files, for a person to run `shirako verify` on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from shirako import trust
from shirako.transport.envelope import acknowledge, seal
from tests.core.cast import key_of
from tests.recorded.examples import second_key
from tests.verify import forged_claims, forged_papers, forged_tokens, spoiled_audits
from tests.verify.kit import AUDITS, BAD, PAPERS, TICKETS
from tests.verify.papers import (
    GUEST,
    NOW,
    SITE,
    SOLD,
    Papers,
    middle,
    revocation,
    root_token,
    sold_out,
    ticket,
)
from tests.verify.spoiled_audits import write_ledger

MODULES = (forged_claims, forged_papers, forged_tokens, spoiled_audits)
"""Importing them has filled the registers."""
TRUSTED = ("site", "elsewhere")
"""Sites whose keys are given to the verifier."""


class Case(NamedTuple):
    """One file of the kit, and what has to come of it."""

    file: Path
    words: tuple[str, ...]
    """What `shirako verify FILE` is given besides."""
    status: int
    reasons: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.file.stem


def genuine() -> dict[str, Any]:
    """What holds, by name."""
    proofs = forged_papers.proof(sold_out(*SOLD))
    envelope = seal(GUEST, SITE.public.kid, 7, NOW * 1000, []).decode()
    answer = acknowledge(SITE, GUEST.public.kid, 7, NOW * 1000, ()).decode()
    revoked = trust.sign_revocation(SITE, revocation())
    return {
        "root": root_token(),
        "share": middle(),
        "chain": ticket(),
        "ticket": [ticket()],
        "lease": Papers().lease,
        "receipt": Papers().receipt,
        "papers": Papers().told(),
        "papers_with_a_revocation": Papers().told(revocation=revoked),
        "revocation": revoked,
        "conflict": proofs,
        "conflicts": [proofs, proofs],
        "succession": second_key().lineage[0],
        "envelope": {"envelope": envelope, "acknowledgement": answer},
    }


def written(folder: Path) -> Iterator[Case]:
    """Write everything below `folder`, and tell it case by case."""
    keys: list[str] = []
    for name in TRUSTED:
        key = folder / "keys" / f"{name}.jwk"
        if not key.exists():
            key_of(name).write(key)
        keys += ["--key", str(trust.public_path(key))]
    words = tuple(keys)
    for name, told in genuine().items():
        yield Case(_write(folder / "genuine", name, told), words, 0, ())
    for variant in TICKETS.values():
        file = _write(folder / "tickets", variant.name, {"ticket": variant.make()})
        yield Case(file, words, variant.status, variant.reasons)
    for variant in PAPERS.values():
        file = _write(folder / "papers", variant.name, variant.make())
        yield Case(file, words, variant.status, variant.reasons)
    (folder / "audits").mkdir(exist_ok=True)
    ledger = folder / "genuine" / "audit.sqlite"
    yield Case(ledger, ("--head", _fresh_ledger(ledger)), 0, ())
    for spoiled in AUDITS.values():
        ledger = folder / "audits" / f"{spoiled.name}.sqlite"
        head = _fresh_ledger(ledger)
        spoiled.spoil(ledger)
        noted = ("--head", head) if spoiled.needs_head else ()
        yield Case(ledger, noted, BAD, spoiled.reasons)


def _write(folder: Path, name: str, told: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.json"
    file.write_text(told if isinstance(told, str) else json.dumps(told, indent=1) + "\n")
    return file


def _fresh_ledger(path: Path) -> str:
    for old in path.parent.glob(f"{path.stem}.*"):
        old.unlink()
    return write_ledger(path)
