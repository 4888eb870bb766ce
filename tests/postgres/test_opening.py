"""A ledger is opened by where it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from shirako.ledger import LedgerError
from shirako.ledger.opening import open_ledger
from shirako.ledger.postgresql import PostgresLedger
from shirako.ledger.sqlite import SqliteLedger


@pytest.mark.real
def test_a_url_is_a_database(url: str, actor: str) -> None:
    for form in (url, url.replace("postgresql://", "postgres://")):
        ledger = open_ledger(form, actor)
        assert isinstance(ledger, PostgresLedger)
        ledger.close()


def test_a_path_is_a_file(tmp_path: Path) -> None:
    for number, form in enumerate((str, Path)):
        ledger = open_ledger(form(tmp_path / f"{number}.sqlite"), "site")
        assert isinstance(ledger, SqliteLedger)
        ledger.close()


def test_a_file_has_no_standby(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="only a ledger on a server can have a standby"):
        open_ledger(tmp_path / "x.sqlite", "site", standby=True)
