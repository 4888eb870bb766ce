"""Makes the shell program that a handler's step runs on the node, out of `templates/`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Literal

from shirako.handlers import Unsuitable

# `setsid` gives each program a session of its own, so that the next handler can find and end it.
# When the driver is gone, nobody reads. A step goes on to its end all the same: a tool that says
# something must not be ended for it half-way, so that somebody always reads.
_RELAY = 'trap "" PIPE; cat 2>/dev/null; cat >/dev/null'
COMMAND = f"exec setsid -w sh -c 'sh -s 2>&1 | {{ {_RELAY}; }}'"

Layout = Literal["account", "shared"]
_PARTS: dict[Layout, tuple[str, ...]] = {
    "account": ("fence.sh", "ours.sh", "clean.sh", "account.sh"),
    "shared": ("fence.sh", "shared.sh"),
}


def program(layout: Layout, values: Mapping[str, str], rendered: Mapping[str, str]) -> str:
    """A program for `sh -s`; values become shell variables. Raises `Unsuitable`.

    All that comes from a guest is in `values` and `rendered`, and reaches the shell quoted, on
    stdin: it is neither parsed nor seen in the node's list of processes.
    """
    assignments = "".join(f"{name}={_quoted(name, text)}\n" for name, text in values.items())
    writes = "".join(
        f"  put_file {_quoted(path, path)} {_quoted(path, text)}\n"
        for path, text in rendered.items()
    )
    steps = "".join(map(_template, _PARTS[layout]))
    # `exit`, for the input stays open: the shell would wait for more of it.
    return f"{assignments}{steps}files() {{\n  :\n{writes}}}\nmain; exit\n"


def _quoted(what: str, text: str) -> str:
    """One word of a shell's; raises `Unsuitable` for what no shell and no file name can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Unsuitable(f"{what} holds half of a character: {error.reason}") from None
    if "\0" in text:
        raise Unsuitable(f"{what} holds a null character")
    return shlex.quote(text)


@cache
def _template(name: str) -> str:
    return (files("shirako_drivers") / "templates" / name).read_text("utf-8")
