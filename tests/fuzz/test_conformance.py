"""BOUNDED, ISOLATED: each actor answers as the OpenAPI document says that it serves, whatever
comes.

Three real processes; the requests are made by the schemathesis command, from the document.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.fuzz.conformance import conform
from tests.fuzz.deployment import NAMES, deployed

EXAMPLES = 10
SEED = 1


def test_every_actor_answers_as_its_document_says(tmp_path: Path) -> None:
    """All three at once: they are real peers, and each run waits for its turns."""
    with deployed(tmp_path) as deployment, ThreadPoolExecutor(len(NAMES)) as threads:

        def run(name: str) -> str:
            found = conform(deployment, name, examples=EXAMPLES, seed=SEED)
            assert not found.failures, f"{name}: {found.failures}\n{found.text}"
            assert found.cases > 100, f"{name}: {found.text}"
            return name

        assert tuple(threads.map(run, NAMES)) == NAMES
        leases = deployment.rest("guest").get("/leases?limit=1000")["leases"]
        assert len(leases) >= len(deployment.leases) + 3, "next to no request was in order"
        assert not deployment.faults()
