"""`pytest tests/scenarios --rewrite` writes what happens now into the stories, for review."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite", action="store_true", help="rewrite the golden stories")
