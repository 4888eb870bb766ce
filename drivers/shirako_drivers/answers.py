"""What a program on a node says, told from what the tools that it runs say.

Each line that is the program's own begins with a token that was made for this one run: neither a
tool's message nor a file's name can pass for an answer. See `templates/fence.sh` for the kinds.
"""

from __future__ import annotations

import os

from shirako.handlers import HandlerFailed, Log, Unsuitable

READY = "ready"
GO = "go\n"
_EXPLANATION = 1_000
"""Characters of what explains a failure."""


class Answers:
    """Takes the lines of one program, in order; used in a thread."""

    def __init__(self, log: Log, hidden: str = "") -> None:
        """`hidden` appears in no message: of a one-time key, people need know nothing."""
        self.token = os.urandom(12).hex()
        self._log = log
        self._hidden = hidden
        self._given: dict[str, list[str]] = {}
        self._talk = ""
        """The last that a tool said, perhaps before the failure that it explains."""
        self._failure: HandlerFailed | Unsuitable | None = None

    def take(self, line: str) -> str | None:
        """What to send back, if this line is a question."""
        if self._hidden:
            line = line.replace(self._hidden, "(a one-time key)")
        own, found, rest = line.partition(self.token)
        if own or not found:
            self._talk = line
            return None
        kind, _, text = rest.partition(" ")
        if kind == "+":
            self._log(text)
        elif kind == "=" and text == READY:
            return GO
        elif kind == "=":
            name, _, value = text.partition(" ")
            self._given.setdefault(name, []).append(value)
        elif kind in ("!", "?"):
            self._fail(text or "it failed and does not say why", blames_unit=kind == "!")
        return None

    def _fail(self, text: str, *, blames_unit: bool) -> None:
        """The first failure says who is to blame; those after it say what it was a part of."""
        why = self._talk if self._failure is None else str(self._failure)
        made = HandlerFailed if blames_unit else Unsuitable
        if self._failure is not None:
            made = type(self._failure)
        self._failure = made(f"{text}: {why[:_EXPLANATION]}" if why else text)

    def conclude(self, step: str) -> None:
        """Raises `HandlerFailed` or `Unsuitable` unless the program said that it came to its end.

        Its exit status says less: it is that of whatever stood between it and us.
        """
        if self._failure is not None:
            raise self._failure
        if step not in self.all("done"):
            raise HandlerFailed(
                f"the step {step} did not come to its end: {self._talk or 'silence'}"
            )

    def all(self, name: str) -> list[str]:
        """Values of this name, in the order in which they came."""
        return self._given.get(name, [])

    def one(self, name: str) -> str:
        """The only value of this name; raises `HandlerFailed`."""
        values = self.all(name)
        if len(values) != 1:
            raise HandlerFailed(f"the node told {len(values)} values of {name}, instead of one")
        return values[0]
