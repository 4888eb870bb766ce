"""`python -m tests.recorded NAME` writes down what this version says, as `tests/recorded/NAME`.

A folder that is there is never written again: what peers of that version said they go on saying.
A version that says more, or says it otherwise, is recorded under a new name.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.recorded.conversations import conversations
from tests.recorded.examples import examples


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.recorded", description=__doc__)
    parser.add_argument("name", help="of the folder, such as version_2")
    folder = Path(__file__).parent / parser.parse_args().name
    if folder.exists():
        sys.exit(f"{folder} is there, and is never written again: choose another name")
    files = dict([*examples(), *conversations()])
    for name, data in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    print(f"{len(files)} files in {folder}")


if __name__ == "__main__":
    main()
