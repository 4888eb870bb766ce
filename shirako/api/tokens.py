"""Bearer tokens: who may do what at the actors of one descriptor.

One file, `tokens.json` in the state folder, written by `shirako token` and read again by running
actors whenever it has changed. It holds digests: a token is shown once, when it is made.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal, get_args

import msgspec

from shirako.clock import RealClock, new_token

TokenRole = Literal["guest", "site-admin", "broker-admin", "viewer"]
ROLES: tuple[TokenRole, ...] = get_args(TokenRole)
NAME = re.compile(r"[a-z][a-z0-9._-]{0,39}\Z")
TOKENS_MAX = 10_000


class Token(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One token, without the secret."""

    name: str
    """A guest's leases belong to this name, also when its token is replaced."""
    role: TokenRole
    actor: str | None = None
    """The only actor that takes it; None: every actor of the descriptor does."""
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    created: int
    """Tick."""


class TokensUnreadable(Exception):
    """The file is there and says nothing that can be understood; nobody is let in by it."""


_decode = msgspec.json.Decoder(tuple[Token, ...]).decode
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding raises: wrong, not UTF-8, nested too deep."""


class Tokens:
    """The tokens in the folder `state`."""

    def __init__(self, state: Path) -> None:
        self.path = state / "tokens.json"
        self._seen: tuple[int, int, int] | None = None
        self._tokens: tuple[Token, ...] = ()

    def listed(self) -> tuple[Token, ...]:
        """All tokens as the file has them now. Raises `TokensUnreadable`."""
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            self._seen, self._tokens = None, ()
            return ()
        except OSError as error:
            raise TokensUnreadable(f"{self.path}: {error.strerror}") from error
        seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        if seen != self._seen:
            self._tokens = self._read()
            self._seen = seen
        return self._tokens

    def _read(self) -> tuple[Token, ...]:
        try:
            return _decode(self.path.read_bytes())
        except OSError as error:
            raise TokensUnreadable(f"{self.path}: {error.strerror}") from error
        except _UNREADABLE as error:
            raise TokensUnreadable(f"{self.path} is damaged: {error}") from error

    def find(self, secret: str) -> Token | None:
        """The token with this secret, compared in constant time. Raises `TokensUnreadable`."""
        digest = _digest(secret)
        found = None
        for token in self.listed():
            if hmac.compare_digest(token.sha256, digest):
                found = token
        return found

    def holds(self, token: Token) -> bool:
        """Whether `token` was not revoked since. Raises `TokensUnreadable`."""
        return token in self.listed()

    def create(self, name: str, role: TokenRole, actor: str | None = None) -> str:
        """Make a token; returns its secret, which is stored nowhere. Raises ValueError."""
        if not NAME.match(name):
            raise ValueError(
                f"{name[:50]!r}: a name is a lower-case letter, then at most 39 letters, digits, "
                "'.', '_' or '-'"
            )
        secret = new_token()
        with self._locked():
            tokens = self.listed()
            if any(token.name == name for token in tokens):
                raise ValueError(f"there is a token {name!r} already: revoke it first")
            if len(tokens) >= TOKENS_MAX:
                raise ValueError(f"there are {TOKENS_MAX} tokens already")
            made = Token(
                name=name,
                role=role,
                actor=actor,
                sha256=_digest(secret),
                created=RealClock().tick(),
            )
            self._write((*tokens, made))
        return secret

    def revoke(self, name: str) -> bool:
        """Remove a token; False when there was none of this name."""
        with self._locked():
            tokens = self.listed()
            kept = tuple(token for token in tokens if token.name != name)
            if len(kept) == len(tokens):
                return False
            self._write(kept)
        return True

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One writer at a time, so that no token is lost and no revoked one comes back."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _write(self, tokens: tuple[Token, ...]) -> None:
        fresh = self.path.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(file, "wb") as opened:
            opened.write(msgspec.json.format(msgspec.json.encode(tokens)))
            opened.flush()
            os.fsync(opened.fileno())
        if os.geteuid() == 0:  # the actors may run as whoever owns the folder
            owner = self.path.parent.stat()
            os.chown(fresh, owner.st_uid, owner.st_gid)
        fresh.replace(self.path)
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _digest(secret: str) -> str:
    # a header's bytes that are no UTF-8 come as lone surrogates: they are of no token, that is all
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()
