"""Which actor a command talks to, and what becomes of its refusals.

Address and token come from options, the environment, or `~/.config/shirako/client.toml`:

    url = "http://127.0.0.1:7703"
    token = "shk_..."
    [site]              # for `shirako site`; [broker] likewise, [lease] too
    url = "http://127.0.0.1:7701"
"""

from __future__ import annotations

import asyncio
import json
import os
import tomllib
from collections.abc import Callable, Coroutine
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from pydantic import ValidationError

    from shirako.client import Client
    from shirako.client import Problem as Refusal

ATTEMPTS = 3
"""Somebody sits there and waits."""

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


def connected(command: F) -> F:
    """Adds `--url`, `--token` and `--json`; the command gets a `Connection` as `to`."""

    @click.option("--url", envvar="SHIRAKO_URL", show_envvar=True, help="The actor's address.")
    @click.option("--token", envvar="SHIRAKO_TOKEN", show_envvar=True, help="Your bearer token.")
    @click.option("--json", "as_json", is_flag=True, help="JSON, for programs.")
    @click.pass_context
    @wraps(command)
    def wrapped(
        ctx: click.Context, /, url: str | None, token: str | None, as_json: bool, **options: Any
    ) -> Any:
        to = Connection(_group(ctx), url, token, as_json=as_json)
        return command(to=to, **options)

    return wrapped  # type: ignore[return-value] # the options are added, the rest is as it was


def _group(ctx: click.Context) -> str:
    return ctx.parent.info_name or "" if ctx.parent else ""


class Connection:
    """How to reach one actor."""

    def __init__(self, group: str, url: str | None, token: str | None, *, as_json: bool) -> None:
        self.json = as_json
        configured = {} if url and token else _configured(group)
        self.url = url or configured.get("url") or ""
        self.token = token or configured.get("token") or ""
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

        async def go() -> T:
            async with Client(self.url, self.token, attempts=ATTEMPTS) as client:
                return await act(client)

        try:
            return asyncio.run(go())
        except Problem as problem:
            raise self._refused(problem, explain) from None
        except Unreachable as error:
            raise click.ClickException(str(error)) from None
        except ValidationError as error:
            raise misused(error) from None

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
        return click.ClickException("\n".join(lines))


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
    return {name: str(merged[name]) for name in ("url", "token") if name in merged}
