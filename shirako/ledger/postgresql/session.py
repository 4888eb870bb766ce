"""One session at the server: how it is set up, and the lock that it holds."""

from __future__ import annotations

import hashlib
from typing import Any, LiteralString
from urllib.parse import quote

import psycopg
from psycopg.conninfo import conninfo_to_dict

from shirako.ledger import LedgerError
from shirako.ledger.postgresql import schema
from shirako.ledger.postgresql.schema import Stored
from shirako.ledger.postgresql.tenure import Fence

OLDEST_SERVER = 140000
"""The first that ends sessions whose client fell silent (`idle_session_timeout`)."""

_CONNECTION = {
    "connect_timeout": 5,
    # A server that is gone is noticed after some 5 s, not after the kernel's two hours.
    "keepalives_idle": 2,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": 5000,
}
"""Parameters of libpq, for what the URL does not say."""

# Every statement goes by a key, so plans are made once, and never for the size that a table
# happened to have when it was new.
_SETTINGS = {
    "search_path": "",
    "default_transaction_isolation": "read committed",
    "plan_cache_mode": "force_generic_plan",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_seqscan": "off",
    "jit": "off",
    "bytea_output": "hex",
    "idle_session_timeout": "",
    "idle_in_transaction_session_timeout": "",
    "tcp_keepalives_idle": "2",
    "tcp_keepalives_interval": "1",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "5000",
}
_SET_UP: LiteralString = """
    SELECT
        current_setting('server_version_num')::integer, current_setting('server_encoding'),
        current_setting('fsync'), current_setting('transaction_read_only'),
        set_config('synchronous_commit', CASE current_setting('synchronous_commit')
            WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, false),
        (SELECT count(set_config(name, setting, false))
            FROM unnest(%s::text[], %s::text[]) AS wanted (name, setting))
"""
_TRY_LOCK: LiteralString = "SELECT pg_try_advisory_lock(%s)"
_UNLOCK: LiteralString = "SELECT pg_advisory_unlock(%s)"


class Target:
    """Where the ledger of one actor is: a database, and the schema in it."""

    def __init__(self, url: str, actor: str) -> None:
        """Raises `LedgerError` when the URL can not be read."""
        try:
            self._parameters = conninfo_to_dict(url)
        except psycopg.ProgrammingError:
            # its message may quote the password
            raise LedgerError(
                "the URL of the ledger can not be read: write it as "
                "postgresql://user:password@host:port/database, and what is special in it as %XX"
            ) from None
        self._url = url
        self.actor = actor
        self.schema = "shirako_" + actor.replace("-", "_")
        self.lock = int.from_bytes(hashlib.sha256(self.schema.encode()).digest()[:8], signed=True)
        """The number of its advisory lock. Other programs' locks are hardly ever the same."""

    def __str__(self) -> str:
        """Its URL without the password, and the schema."""
        said = self._parameters
        user = f"{quote(str(said['user']))}@" if said.get("user") else ""
        port = f":{said['port']}" if said.get("port") else ""
        host = said.get("host") or said.get("hostaddr") or ""
        return f"postgresql://{user}{host}{port}/{said.get('dbname') or ''} schema {self.schema}"

    def connect(self, hold_seconds: float) -> Session:
        """A session whose lock the server frees when it does not hear of it for `hold_seconds`.

        Raises `LedgerError` when there is none to be had, or the server is no home for a ledger.
        """
        wanted: dict[str, Any] = _CONNECTION | {"application_name": f"shirako {self.actor}"}
        defaults = {name: wanted[name] for name in wanted if name not in self._parameters}
        try:
            db = psycopg.connect(self._url, autocommit=True, client_encoding="utf8", **defaults)
        except psycopg.Error as error:
            raise LedgerError(f"{self} can not be reached: {told(error)}") from None
        session = Session(self, db)
        try:
            session.set_up(hold_seconds)
        except psycopg.Error as error:
            session.close()
            raise LedgerError(f"{self} can not be used: {told(error)}") from error
        except LedgerError:
            session.close()
            raise
        return session


class Session:
    """A connection. Whoever uses it handles `psycopg.Error`."""

    def __init__(self, target: Target, db: psycopg.Connection) -> None:
        self.db = db
        self._target = target

    def set_up(self, hold_seconds: float) -> None:
        hold = f"{hold_seconds * 1000:.0f}ms"
        settings = _SETTINGS | {
            "search_path": f'"{self._target.schema}"',
            "idle_session_timeout": hold,
            "idle_in_transaction_session_timeout": hold,
        }
        row = self.db.execute(_SET_UP, (list(settings), list(settings.values()))).fetchone()
        if row is None:
            raise LedgerError(f"{self._target} answers nothing")
        version, encoding, fsync, read_only, *_ = row
        wrong = ""
        if version < OLDEST_SERVER:
            wrong = f"its server has version {version // 10000}: 14 or newer is needed"
        elif read_only == "on":
            wrong = "its server takes no writes (read-only, or a replica): name the one that does"
        elif encoding != "UTF8":
            wrong = f"its encoding is {encoding}: make the database with ENCODING 'UTF8'"
        elif fsync == "off":
            wrong = "its server forgets commits when its machine fails: set fsync = on there"
        if wrong:
            raise LedgerError(f"{self._target} can not be used: {wrong}")

    def lock(self) -> bool:
        """Take the lock of the ledger, unless another session has it."""
        row = self.db.execute(_TRY_LOCK, (self._target.lock,)).fetchone()
        return row is not None and bool(row[0])

    def unlock(self) -> None:
        self.db.execute(_UNLOCK, (self._target.lock,))

    def state(self) -> tuple[Fence, Stored] | None:
        """What the fence says; None when there are no tables yet."""
        if schema.version_of(self.db) == 0:
            return None
        row = self.db.execute(schema.STATE).fetchone()
        return None if row is None else (Fence(*row[:5]), Stored(*row[5:]))

    def close(self) -> None:
        self.db.close()


def ended(db: psycopg.Connection, error: psycopg.Error) -> bool:
    """Whether the session is over, so that what was under way may have been done or not.

    Otherwise the server refused one statement, and undid all of it.
    """
    return db.closed or error.diag.severity_nonlocalized in ("FATAL", "PANIC")


def told(error: psycopg.Error) -> str:
    """The error in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "; ".join(lines) or type(error).__name__
