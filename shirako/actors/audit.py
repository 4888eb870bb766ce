"""Entries of the audit record that are about something else than a lease."""

from __future__ import annotations

from typing import Any

from shirako.actors.role import Role
from shirako.ledger import Entry

NOTE_CHARACTERS_MAX = 2000


def note(role: Role[Any], about: str, now: int, what: str, by: str, text: str = "") -> None:
    """Say in the record that `by` did `what` to `about`: `unit/n1`, `delegation/share`, `clock`.

    It is stored with the other changes of the turn, wholly or not at all.
    """
    entry = Entry(lease=about, tick=now, what=what, by=by, note=text[:NOTE_CHARACTERS_MAX])
    role.batch.entries.append(entry)
