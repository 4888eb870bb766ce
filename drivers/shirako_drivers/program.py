"""Makes the shell program that a handler's step runs on the node, out of `templates/`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

# `setsid` gives each command a session of its own, so that the next handler can find and end it.
COMMAND = "exec setsid -w sh -s"


def program(layout: str, values: Mapping[str, str], rendered: Mapping[str, str]) -> str:
    """A program for `sh -s`: layout is `account` or `shared`, values become shell variables.

    All that comes from a guest is in `values` and `rendered`, and reaches the shell quoted, on
    stdin: it is neither parsed nor seen in the node's list of processes.
    """
    assignments = "".join(f"{name}={shlex.quote(text)}\n" for name, text in values.items())
    writes = "".join(
        f"  put_file {shlex.quote(path)} {shlex.quote(text)}\n" for path, text in rendered.items()
    )
    steps = _template("fence.sh") + _template(f"{layout}.sh")
    return f"{assignments}{steps}files() {{\n  :\n{writes}}}\nmain </dev/null\n"


@cache
def _template(name: str) -> str:
    return (files("shirako_drivers") / "templates" / name).read_text("utf-8")
