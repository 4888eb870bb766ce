"""The three state tables as text and as diagrams, drawn from what runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from shirako.core import authority, broker, guest
from shirako.core.machine import State, Table

TABLES: dict[str, Table[Any]] = {
    "service manager": guest.TABLE,
    "broker": broker.TABLE,
    "authority": authority.TABLE,
}


class Edge(NamedTuple):
    """One state that one event may lead to."""

    source: State
    event: str
    target: State


def edges(table: Table[Any]) -> Iterator[Edge]:
    """Every edge of a table, in the table's own order."""
    for (source, event), arrow in table.items():
        for target in arrow.targets:
            yield Edge(source, event.__name__, target)


def text() -> str:
    """One line an edge, for reading and for `grep`."""
    lines = []
    for role, table in TABLES.items():
        lines.append(f"{role}:")
        lines += [
            f"  {edge.source.value} --{edge.event}--> {edge.target.value}" for edge in edges(table)
        ]
    return "\n".join(lines)


def mermaid() -> str:
    """One Mermaid state diagram a role, in Markdown; edges that share both ends share a line."""
    return "\n\n".join(
        f"## {role.capitalize()}\n\n```mermaid\n{_diagram(table)}\n```"
        for role, table in TABLES.items()
    )


def _diagram(table: Table[Any]) -> str:
    events: dict[tuple[State, State], list[str]] = {}
    for edge in edges(table):
        events.setdefault((edge.source, edge.target), []).append(edge.event)
    lines = ["stateDiagram-v2"]
    if events:
        first = next(iter(events))[0]
        lines.append(f"    [*] --> {first.value}")
    lines += [
        f"    {source.value} --> {target.value}: {', '.join(names)}"
        for (source, target), names in events.items()
    ]
    states = dict.fromkeys(state for pair in events for state in pair)
    lines += [f"    {state.value} --> [*]" for state in states if state.final]
    return "\n".join(lines)
