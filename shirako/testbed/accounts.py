"""The machine's account files as a node gets them: the system's accounts, no people, no passwords.

A guest's account may then have any name that is not the system's, and belongs to no group that
somebody of that name belongs to on the machine.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

_PEOPLE = range(1000, 60_000)
"""Numbers that Debian gives to people's accounts and groups."""

_NO_PASSWORD = "*"  # noqa: S105 - not "!", which sshd takes for a locked account

Fields = list[str]


def without_people(folder: Path) -> dict[str, str]:
    """Texts of `passwd`, `shadow`, `group` and `gshadow`, made from those in `folder`."""
    accounts = [line for line in _lines(folder / "passwd") if int(line[2]) not in _PEOPLE]
    groups = [line for line in _lines(folder / "group") if int(line[2]) not in _PEOPLE]
    account_names = {line[0] for line in accounts}

    def known(members: str) -> str:
        return ",".join(name for name in members.split(",") if name in account_names)

    return {
        "passwd": _text(accounts, lambda line: line),
        "shadow": _text(
            accounts, lambda line: [line[0], _NO_PASSWORD, "1", "0", "", "", "", "", ""]
        ),
        "group": _text(groups, lambda line: [*line[:3], known(line[3])]),
        "gshadow": _text(groups, lambda line: [line[0], _NO_PASSWORD, "", known(line[3])]),
    }


def _lines(path: Path) -> list[Fields]:
    # "+" lines ask for NIS accounts, by the rules of a source that nodes do not have.
    lines = path.read_text().splitlines()
    return [line.split(":") for line in lines if line and not line.startswith(("#", "+", "-"))]


def _text(lines: list[Fields], change: Callable[[Fields], Fields]) -> str:
    return "".join(":".join(change(line)) + "\n" for line in lines)
