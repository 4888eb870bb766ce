"""`python -m tests.verify FOLDER` writes the kit as files, and a list of commands to try it with.

Each file is named after what is wrong with it; `COMMANDS` in the folder has one line for each, with
what `shirako verify` has to say.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from tests.verify.writing import written


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.verify", description=__doc__)
    parser.add_argument("folder", type=Path, help="where to write; made if it is not there")
    folder: Path = parser.parse_args().folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for case in written(folder):
        due = "good" if case.status == 0 else f"exit {case.status}: {' ... '.join(case.reasons)}"
        command = shlex.join(["shirako", "verify", str(case.file), *case.words])
        lines.append(f"# {case.name}: {due}\n{command}\n")
    (folder / "COMMANDS").write_text("\n".join(lines))
    print(f"{len(lines)} files; try the lines of {folder / 'COMMANDS'}")


if __name__ == "__main__":
    main()
