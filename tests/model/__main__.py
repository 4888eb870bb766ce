"""`python -m tests.model [--mutants] [--json]`: explores all worlds and prints what was found."""

from __future__ import annotations

import argparse
import json

from tests.model.report import report, text


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.add_argument("--mutants", action="store_true", help="make and run all mutants too")
    parser.add_argument("--json", action="store_true", help="for machines")
    asked = parser.parse_args()
    said = report(with_mutants=asked.mutants)
    print(json.dumps(said, indent=2) if asked.json else text(said))


if __name__ == "__main__":
    main()
