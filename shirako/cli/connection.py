"""Which actor a command talks to, and what becomes of its refusals.

Address, token and certificates come from options, the environment, or
`~/.config/shirako/client.toml` (whose paths are taken from its own folder):

    url = "https://guest.example.org:7703"
    token = "shk_..."
    ca = "ca.pem"             # whom to trust, where the system does not
    cert = "ann.pem"          # what to show, where a certificate is asked for
    cert-key = "ann.key"      # can be left out where it lies beside ann.pem
    [site]              # for `shirako site`; [broker] likewise, [lease] too
    url = "http://127.0.0.1:7701"
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import tomllib
from collections.abc import Callable, Coroutine, Mapping
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from shirako.cli import output

if TYPE_CHECKING:
    from pydantic import ValidationError

    from shirako.client import Client
    from shirako.client import Problem as Refusal

SETTINGS = ("url", "token", "ca", "cert", "cert-key")
_FILES = frozenset(("ca", "cert", "cert-key"))
_HINTS = {
    "untrusted": "name its authority's certificate: --ca, SHIRAKO_CA",
    "host": "use the name or address that it was certified for",
    "demanded": "show a certificate of its authority: --cert and --cert-key, SHIRAKO_CERT",
}
"""What to do about trouble with TLS."""

ATTEMPTS = 3
"""Somebody sits there and waits."""

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


def connected(command: F) -> F:
    """Adds `--url`, `--token`, `--json` and those of TLS; the command gets a `Connection`, `to`."""

    @click.option("--url", envvar="SHIRAKO_URL", show_envvar=True, help="The actor's address.")
    @click.option("--token", envvar="SHIRAKO_TOKEN", show_envvar=True, help="Your bearer token.")
    @click.option("--ca", envvar="SHIRAKO_CA", show_envvar=True, help="PEM file: whom to trust.")
    @click.option(
        "--cert", envvar="SHIRAKO_CERT", show_envvar=True, help="PEM file: your certificate."
    )
    @click.option(
        "--cert-key", envvar="SHIRAKO_CERT_KEY", show_envvar=True, help="Its key; else beside it."
    )
    @click.option("--json", "as_json", is_flag=True, help="JSON, for programs.")
    @click.pass_context
    @wraps(command)
    def wrapped(
        ctx: click.Context,
        /,
        url: str | None,
        token: str | None,
        ca: str | None,
        cert: str | None,
        cert_key: str | None,
        as_json: bool,
        **options: Any,
    ) -> Any:
        given = {"url": url, "token": token, "ca": ca, "cert": cert, "cert-key": cert_key}
        return command(to=Connection(_group(ctx), given, as_json=as_json), **options)

    return wrapped  # type: ignore[return-value] # the options are added, the rest is as it was


def _group(ctx: click.Context) -> str:
    return ctx.parent.info_name or "" if ctx.parent else ""


class Connection:
    """How to reach one actor."""

    def __init__(self, group: str, given: Mapping[str, str | None], *, as_json: bool) -> None:
        """`given`: what options and the environment say of each of `SETTINGS`."""
        self.json = as_json
        told = {name: value for name, value in given.items() if value}
        plain = told.get("url", "").startswith("http://")
        if not {"url", "token"} <= told.keys() or not (plain or {"ca", "cert"} <= told.keys()):
            told = {**_configured(group), **told}
        self.url = told.get("url", "")
        self.token = told.get("token", "")
        self._tls_files = {name: Path(told[name]).expanduser() for name in _FILES if name in told}
        if not self.url:
            raise click.UsageError(
                f"which actor? Give --url, set SHIRAKO_URL, or write url into {config_path()}"
            )
        if not self.url.startswith(("http://", "https://")):
            raise click.UsageError(f"--url {self.url}: an address begins with http:// or https://")

    def run(
        self,
        act: Callable[[Client], Coroutine[Any, Any, T]],
        explain: Callable[[dict[str, Any]], list[str]] | None = None,
    ) -> T:
        """Do something with a client; what is refused ends the command with status 1.

        `explain`: lines to add, from the further members of a refusal.
        """
        from pydantic import ValidationError

        from shirako.client import Client, Problem, Unreachable

        tls = self._tls()

        async def go() -> T:
            async with Client(self.url, self.token, attempts=ATTEMPTS, tls=tls) as client:
                return await act(client)

        try:
            return asyncio.run(go())
        except Problem as problem:
            raise self._refused(problem, explain) from None
        except Unreachable as error:
            hint = _HINTS.get(error.trouble) if error.trouble else None
            told = output.plain(str(error))
            raise click.ClickException(f"{told}\n  {hint}" if hint else told) from None
        except ValidationError as error:
            raise misused(error) from None

    def _tls(self) -> ssl.SSLContext | None:
        """What to trust and to show; None: what the system trusts, and nothing."""
        if not self._tls_files or not self.url.startswith("https://"):
            return None
        from shirako.certificates import CertificateError, client_context

        files = self._tls_files
        cert, key = files.get("cert"), files.get("cert-key")
        if cert is None and key is not None:
            raise click.UsageError("--cert-key is of no use without --cert, SHIRAKO_CERT")
        if cert is not None and key is None:
            key = cert.with_suffix(".key")
            if not key.exists():
                raise click.UsageError(
                    f"--cert {cert}: there is no {key}: name its key with --cert-key, "
                    "or set SHIRAKO_CERT_KEY"
                )
        try:
            return client_context(files.get("ca"), cert, key)
        except CertificateError as error:
            raise click.UsageError(str(error)) from None

    def _refused(
        self, problem: Refusal, explain: Callable[[dict[str, Any]], list[str]] | None
    ) -> click.exceptions.Exit | click.ClickException:
        if self.json:
            click.echo(json.dumps(problem.document(), indent=2))
            return click.exceptions.Exit(1)
        lines = [problem.detail]
        lines += [f"  {error.get('field')}: {error.get('message')}" for error in problem.errors[1:]]
        lines += explain(problem.members) if explain else []
        if problem.status == 401:
            lines.append("  give --token, set SHIRAKO_TOKEN, or ask for one: shirako token create")
        return click.ClickException("\n".join(map(output.plain, lines)))


def misused(error: ValidationError) -> click.UsageError:
    """A request that is wrong before it is sent, in the words of the API."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"])) or "request"
    return click.UsageError(f"{where}: {first['msg']}")


def config_path() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "shirako" / "client.toml"


def _configured(group: str) -> dict[str, str]:
    path = config_path()
    try:
        told = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise click.UsageError(f"{path}: {error}") from None
    own = told.get(group)
    merged = {**told, **(own if isinstance(own, dict) else {})}
    found = {name: str(merged[name]) for name in SETTINGS if name in merged}
    files = {name: Path(found[name]).expanduser() for name in _FILES & found.keys()}
    return {**found, **{name: str(path.parent / file) for name, file in files.items()}}
