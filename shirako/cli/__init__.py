"""The command `shirako`.

commands    which commands there are, and loading each only when it is called
connection  which actor to talk to and how to say what it refused
output      tables, JSON, times; waiting: following a lease until it is ready
actors, ca, token, lease, site, broker, clock, states, verify, completion, demo, testbed   commands
upkeep      those of `site` that keep its nodes in order
recovery    `backup`, `restore`, `recover`
"""

from __future__ import annotations

from shirako.cli.commands import main

__all__ = ["main"]
