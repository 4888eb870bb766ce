"""Golden stories: commands and all that follows from them, to be read and reviewed as text.

A line `> command` is told to the stage; the indented lines below it are what happened. Lines that
start with `#` are for the reader. The commands:

    site UNIT.. ; delegates N START..END
    request LEASE N START..END [least N] [by GUEST] [with KEY=VALUE]
    deliver FROM TO [unanswered]              copy FROM TO ; late
    fails HANDLER UNIT WHY.. ; works HANDLER UNIT
    down ACTOR ; up ACTOR ; crash ACTOR       tick N ; settle ; show LEASE
    extend LEASE END [least END]              close LEASE
    lost UNIT WHY.. ; release UNIT            retry LEASE
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from shirako.core.terms import Term
from tests.scenarios.stage import Stage

FOLDER = Path(__file__).parent
STORIES = sorted(path.name for path in FOLDER.glob("*.txt"))


class Script:
    """Reads commands and plays them on a stage."""

    def __init__(self) -> None:
        self.stage = Stage()
        self.commands: dict[str, Callable[[list[str]], None]] = {
            "site": self._site,
            "delegates": self._delegates,
            "request": self._request,
            "deliver": self._deliver,
            "copy": lambda words: self.stage.copy(*words),
            "late": lambda _: self.stage.late(),
            "fails": self._fails,
            "works": self._works,
            "down": lambda words: self.stage.down.update(words),
            "up": lambda words: self.stage.down.difference_update(words),
            "crash": lambda words: self.stage.crash(words[0]),
            "tick": lambda words: self.stage.tick(int(words[0])),
            "settle": lambda _: self.stage.settle(),
            "show": self._show,
            "extend": self._extend,
            "close": lambda words: self.stage.close(words[0]),
            "lost": lambda words: self.stage.lost(words[0], " ".join(words[1:])),
            "release": lambda words: self.stage.release(words[0]),
            "retry": lambda words: self.stage.retry(words[0]),
        }

    def play(self, text: str) -> str:
        """The story's text with what happens now below each command."""
        lines: list[str] = []
        for line in text.splitlines():
            if line.startswith("> "):
                name, *words = line[2:].split()
                self.stage.trace = []
                self.commands[name](words)
                lines.append(line)
                lines += [f"    {event}" for event in self.stage.trace]
            elif not line.startswith("    "):
                lines.append(line)
        return "\n".join(lines) + "\n"

    def _site(self, words: list[str]) -> None:
        self.stage = Stage(units=words, guests=("guest", "other"))

    def _delegates(self, words: list[str]) -> None:
        self.stage.delegate(int(words[0]), _term(words[1]))

    def _request(self, words: list[str]) -> None:
        name, units, term, *rest = words
        options = dict(zip(rest[::2], rest[1::2], strict=True))
        least = int(options["least"]) if "least" in options else None
        key, _, value = options.get("with", "").partition("=")
        self.stage.request(
            name,
            int(units),
            _term(term),
            least=least,
            guest=options.get("by", "guest"),
            configuration={key: value} if key else {},
        )

    def _deliver(self, words: list[str]) -> None:
        sender, receiver, *rest = words
        if not self.stage.deliver(sender, receiver, answered=not rest):
            self.stage.trace.append("nothing arrives")

    def _fails(self, words: list[str]) -> None:
        handler, unit, *why = words
        self.stage.failing[handler, unit] = " ".join(why)

    def _works(self, words: list[str]) -> None:
        del self.stage.failing[words[0], words[1]]

    def _extend(self, words: list[str]) -> None:
        name, end, *rest = words
        self.stage.extend(name, int(end), int(rest[1]) if rest else None)

    def _show(self, words: list[str]) -> None:
        for actor in self.stage.roles:
            record = self.stage.record(actor, words[0])
            if record is None:
                continue
            term = f"[{record.term.start},{record.term.end})"
            reason = f" - {record.reason}" if record.reason else ""
            reason += f" - degraded: {record.degraded}" if getattr(record, "degraded", "") else ""
            state = self.stage.state(actor, words[0])
            self.stage.trace.append(f"{actor}: {state} {record.units} units {term}{reason}")
        for unit in self.stage.site.units.values():
            owner = unit.owner[1] if unit.owner else "free"
            fit = f"quarantined: {unit.quarantined}" if unit.quarantined else owner
            self.stage.trace.append(f"unit {unit.name}: {fit}")


def _term(text: str) -> Term:
    start, _, end = text.partition("..")
    return Term(int(start), int(end))


@pytest.mark.parametrize("name", STORIES)
def test_story(name: str, request: pytest.FixtureRequest) -> None:
    path = FOLDER / name
    told = path.read_text()
    happens = Script().play(told)
    if request.config.getoption("--rewrite", default=False):
        path.write_text(happens)
    else:
        assert happens.splitlines() == told.splitlines(), f"review with --rewrite: {name}"


def test_there_are_stories() -> None:
    assert len(STORIES) >= 8
