"""What one actor shows and trusts over TLS, for how long, and who looks after that.

A certificate that was replaced on disk is taken up while the actor runs, for new connections. New
authorities are not: they need a restart.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from shirako.certificates import (
    AUTHORITY,
    Certificate,
    CertificateError,
    client_context,
    read_certificates,
    server_context,
    show,
    trust,
)

WARN_BEFORE = timedelta(days=14)
WARN_AGAIN = timedelta(days=1)
LOOK_SECONDS = 600.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Files:
    """A folder as `shirako ca` makes it, and further authorities."""

    folder: Path
    ca: Path | None = None

    @property
    def authority(self) -> Path:
        return self.folder / f"{AUTHORITY}.pem"

    def certificate(self, name: str) -> Path:
        return self.folder / f"{name}.pem"

    def key(self, name: str) -> Path:
        return self.folder / f"{name}.key"


class Credentials:
    """Of one actor. `server` and `client` are contexts for the two ends of its connections."""

    def __init__(self, name: str, files: Files, *, mutual: bool) -> None:
        """Raises `CertificateError` when the files are not what they should be."""
        self.name = name
        self.path = files.certificate(name)
        self._key = files.key(name)
        self.server = server_context(self.path, self._key, files.authority if mutual else None)
        own = (self.path, self._key) if mutual else (None, None)
        self.client = client_context(files.authority, *own)
        if files.ca is not None:
            trust(self.client, files.ca)
            if mutual:
                trust(self.server, files.ca)
        self._showing: tuple[ssl.SSLContext, ...] = (self.server,)
        if mutual:
            self._showing += (self.client,)
        self._stamp = self._stamp_now()
        self._certificate = read_certificates(self.path)[0]
        self._warned: datetime | None = None

    @property
    def ends(self) -> datetime:
        """When the certificate that is shown is over."""
        return self._certificate.ends

    def look(self, now: datetime) -> None:
        """Take up a new certificate, and warn of one that ends soon."""
        try:
            stamp = self._stamp_now()
            if stamp != self._stamp:
                self._stamp = stamp
                self._take_up(now)
        except (CertificateError, OSError) as error:
            log.warning("%s goes on with its old certificate: %s", self.name, error)
        if self.ends - now > _notice(self._certificate):
            self._warned = None
        elif self._warned is None or now - self._warned >= WARN_AGAIN:
            self._warned = now
            ended = "ended" if self.ends <= now else "ends"
            log.warning(
                "the certificate of %s %s %s: replace %s and its key",
                self.name,
                ended,
                f"{self.ends:%Y-%m-%d %H:%M}Z",
                self.path,
            )

    def _take_up(self, now: datetime) -> None:
        # all that can be wrong is tried on a context that nobody uses
        server_context(self.path, self._key, None)
        if read_certificates(self.path)[0].ends <= now:
            raise CertificateError(f"{self.path} is over")
        for context in self._showing:
            show(context, self.path, self._key)
        self._certificate = read_certificates(self.path)[0]
        log.warning(
            "%s shows its new certificate, good until %s",
            self.name,
            f"{self.ends:%Y-%m-%d %H:%M}Z",
        )

    def _stamp_now(self) -> tuple[tuple[int, int], ...]:
        stats = [path.stat() for path in (self.path, self._key)]
        return tuple((stat.st_mtime_ns, stat.st_ino) for stat in stats)


def _notice(certificate: Certificate) -> timedelta:
    """How long before its end a certificate is warned of: some days, but no long part of it."""
    return min(WARN_BEFORE, (certificate.ends - certificate.begins) / 3)


async def look_after(credentials: Sequence[Credentials], now: Callable[[], datetime]) -> None:
    """Look at them again and again; never returns."""
    while True:
        for one in credentials:
            one.look(now())
        await asyncio.sleep(LOOK_SECONDS)
