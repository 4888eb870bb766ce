"""Writes what is generated in docs/: the state diagrams, from the tables that run."""

from __future__ import annotations

from pathlib import Path

from shirako.core.diagram import mermaid

STATES = Path(__file__).parent.parent / "docs" / "STATES.md"


def states() -> str:
    """The text of docs/STATES.md."""
    return (
        "# State tables\n\n"
        "What each actor remembers of a lease, and what leads where. Written by `make docs` from\n"
        "the tables in `shirako/core`; `shirako states` prints the same.\n\n"
        f"{mermaid()}\n"
    )


if __name__ == "__main__":
    STATES.write_text(states())
