"""What went wrong with TLS, in words that tell who has to mend what."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Literal

import aiohttp

Trouble = Literal["untrusted", "host", "over", "demanded", "plain"]
"""Of the server's certificate: not of an authority that we trust, for another host, over (or not
begun). Of ours: the server wants one, or another one. Or one end does not speak TLS."""

_OVER, _EARLY = 10, 9
_HOST, _ADDRESS = 62, 64
# OpenSSL's names of alerts in which a server says that it wants a certificate, or another one
_ALERTS = (
    "CERTIFICATE_REQUIRED",
    "UNKNOWN_CA",
    "BAD_CERTIFICATE",
    "CERTIFICATE_EXPIRED",
    "CERTIFICATE_UNKNOWN",
    "HANDSHAKE_FAILURE",
)
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "PACKET_LENGTH")

TEXTS: Mapping[Trouble, str] = {
    "untrusted": "its certificate is of no authority that is trusted here",
    "host": "its certificate is for another host",
    "over": "its certificate has expired, or is not good yet",
    "demanded": "it hung up: it may demand a certificate of an authority that it trusts, one that "
    "is not over",
    "plain": "one end speaks TLS and the other does not: https or http?",
}


def trouble_of(error: BaseException, url: str) -> Trouble | None:
    """What of TLS made a request to `url` fail; None: something else did."""
    cause = _ssl_error(error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        if cause.verify_code in (_OVER, _EARLY):
            return "over"
        return "host" if cause.verify_code in (_HOST, _ADDRESS) else "untrusted"
    if cause is not None:
        reason = cause.reason or ""
        if any(name in reason for name in _NO_TLS):
            return "plain"
        return "demanded" if any(name in reason for name in _ALERTS) else None
    hung_up = isinstance(error, (aiohttp.ServerDisconnectedError, ConnectionResetError)) or (
        isinstance(error, aiohttp.ClientOSError) and isinstance(error.__cause__, ConnectionError)
    )
    if not hung_up or isinstance(error, aiohttp.ClientConnectorError):
        return None
    # asyncio's servers drop the alert in which OpenSSL says what was wrong with our certificate
    return "demanded" if url.startswith("https:") else None


def explain(error: BaseException, url: str) -> str | None:
    """The same as the end of the sentence "URL: ..."."""
    trouble = trouble_of(error, url)
    return None if trouble is None else TEXTS[trouble]


def _ssl_error(error: BaseException | None) -> ssl.SSLError | None:
    """OpenSSL's own error below aiohttp's, some of which are of its class and know less."""
    while isinstance(error, aiohttp.ClientError) or not isinstance(error, ssl.SSLError | None):
        error = error.__cause__
    return error
