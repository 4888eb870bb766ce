"""`python -m shirako`: the command, for where no script is installed."""

from __future__ import annotations

from shirako.cli import main

main()
