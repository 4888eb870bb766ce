"""How a process comes to hold a ledger: it gets the lock, and then a generation of its own."""

from __future__ import annotations

import logging
import threading
from typing import NamedTuple

import psycopg
from psycopg import sql

from shirako.ledger import LedgerError
from shirako.ledger.postgresql import schema
from shirako.ledger.postgresql.process import Process
from shirako.ledger.postgresql.schema import Stored
from shirako.ledger.postgresql.session import Session, Target, ended, told
from shirako.ledger.postgresql.tenure import (
    CLOCKS_APART,
    Fence,
    Tenure,
    steady,
    succession,
)

POLL_SECONDS = 0.1
"""How often a standby looks whether the lock is free. A statement that waits for it at the server
would keep the server from clearing away old rows, for as long as it waits."""
RETURN_SECONDS = 1.0
"""A standby that lost its own connection gives the holder so much time to come back first."""

log = logging.getLogger(__name__)


class Opened(NamedTuple):
    session: Session
    tenure: Tenure
    stored: Stored


def open_as_holder(
    target: Target, hold_seconds: float, *, standby: bool, stopping: threading.Event
) -> Opened:
    """Become the holder: at once, or as a standby when there is none any more.

    Raises `LedgerError` when that can not be, or `stopping` was set.
    """
    session = target.connect(hold_seconds)
    while True:
        try:
            _get_lock(session, target, standby=standby, stopping=stopping)
            return _take_over(session, target, hold_seconds)
        except psycopg.Error as error:
            refused = not ended(session.db, error)
            session.close()
            if refused or not standby:
                raise LedgerError(f"{target} can not be used: {told(error)}") from error
            log.warning("%s: %s; a standby, it tries again", target, told(error))
            session = _connect_again(target, hold_seconds, stopping)
        except LedgerError:
            session.close()
            raise


def _connect_again(target: Target, hold_seconds: float, stopping: threading.Event) -> Session:
    while True:
        _pause(RETURN_SECONDS, target, stopping)
        try:
            return target.connect(hold_seconds)
        except LedgerError as error:
            log.debug("%s", error)


def _get_lock(
    session: Session, target: Target, *, standby: bool, stopping: threading.Event
) -> None:
    """Return when this session has the lock; raises `LedgerError` when it is not to be waited for.

    Even who is no standby waits a little: a holder that just died may still have its session.
    """
    begun = steady()
    while not session.lock():
        if not standby:
            holder, hold_seconds = _holder(session)
            runs = holder.runs() if holder else None
            if runs or steady() - begun > hold_seconds * CLOCKS_APART + RETURN_SECONDS:
                who = f"process {holder.pid} on {holder.host}" if holder else "another process"
                raise LedgerError(
                    f"{target} is in use by {who}: stop that one first, or start a standby"
                )
        _pause(POLL_SECONDS, target, stopping)


def _holder(session: Session) -> tuple[Process | None, float]:
    """Who holds the ledger as far as the fence knows, and for how many seconds."""
    state = session.state()
    if state is None:
        return None, 0.0
    return Process.read(state[0].holder), state[0].hold_ms / 1000


def _take_over(session: Session, target: Target, hold_seconds: float) -> Opened:
    """Store a generation of our own, and check what is there. We have the lock."""
    db = session.db
    if db.execute("SELECT to_regnamespace(%s)", (target.schema,)).fetchone() == (None,):
        db.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(target.schema)))
    version = schema.version_of(db)
    if version > schema.VERSION:
        raise LedgerError(
            f"{target} has schema {version}, this program knows {schema.VERSION}: "
            "run the newer program"
        )
    if version and (wrong := schema.damage(db)):
        raise LedgerError(f"{target} is damaged ({wrong}): restore a backup; nothing was changed")
    asked = steady()
    with db.transaction():
        if version == 0:
            schema.migrate(db, version)
        fence, wait_seconds, stored = _bump(session, target, hold_seconds)
        if version != 0:
            schema.migrate(db, version)
    tenure = Tenure(fence.generation, hold_seconds, steady() + wait_seconds)
    tenure.confirm(asked)
    if not fence.waiting:
        tenure.begin()
    return Opened(session, tenure, stored)


def _bump(session: Session, target: Target, hold_seconds: float) -> tuple[Fence, float, Stored]:
    """From here on nothing of our predecessors is committed."""
    session.db.execute("SELECT FROM fence FOR UPDATE")
    state = session.state()
    if state is None:
        raise LedgerError(f"{target} is damaged (its table `fence` is empty): restore a backup")
    old, stored = state
    holder = Process.read(old.holder)
    runs = holder.runs() if holder else None
    me, hold_ms = str(Process.this()), round(hold_seconds * 1000)
    fence, wait_seconds = succession(old, me, hold_ms, runs)
    session.db.execute(schema.TAKE_OVER, fence)
    return fence, wait_seconds, stored


def _pause(seconds: float, target: Target, stopping: threading.Event) -> None:
    if stopping.wait(seconds):
        raise LedgerError(f"{target}: stopped while it waited")
