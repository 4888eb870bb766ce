"""In-process transport: the twin of HTTP. Envelopes are still encoded, signed and verified."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from shirako.transport import Unreachable
from shirako.transport.envelope import Rejected

Receive = Callable[[bytes], Awaitable[bytes]]


class LocalTransport:
    """Actors of one process, by their addresses."""

    def __init__(self) -> None:
        self._doors: dict[str, Receive] = {}

    def listen(self, url: str, receive: Receive) -> None:
        self._doors[url] = receive

    def stop_listening(self, url: str) -> None:
        self._doors.pop(url, None)

    async def post(self, url: str, envelope: bytes) -> bytes:
        receive = self._doors.get(url)
        if receive is None:
            raise Unreachable(f"nobody listens at {url}")
        try:
            return await receive(envelope)
        except Rejected as rejected:
            raise Unreachable(f"{url} refused the envelope: {rejected}") from rejected
        except Exception as error:  # a peer's fault is the peer's, as it is over HTTP
            raise Unreachable(f"{url} broke: {type(error).__name__}: {error}") from error

    async def close(self) -> None:
        """Nothing to give back."""
