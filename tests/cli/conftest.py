"""One site with null drivers, made and run with the command itself."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from click.testing import CliRunner

from shirako.cli import main
from shirako.testbed.ports import free_ports

DESCRIPTOR = """<actors xmlns="urn:shirako:actors:1" state="state">
  <authority name="site" url="http://127.0.0.1:{site}" key="keys/site.jwk">
    <pool type="node" assignment="first-fit">
      <driver name="null"/>
      <units prefix="n" count="4"/>
    </pool>
    <pool type="slow" assignment="first-fit">
      <driver name="null" hang="setup"/>
      <units prefix="s" count="1"/>
    </pool>
    <delegation name="share" to="broker" type="node" units="3"/>
    <delegation name="slow" to="broker" type="slow" units="1"/>
  </authority>
  <broker name="broker" url="http://127.0.0.1:{broker}" key="keys/broker.jwk"
          allocation="first-come"/>
  <service-manager name="guest" url="http://127.0.0.1:{guest}" key="keys/guest.jwk"
                   demand="static">
    <guest-driver name="null"/>
  </service-manager>
  <edge from="site" to="broker"/>
  <edge from="broker" to="guest"/>
</actors>
"""


@dataclass
class Cli:
    """Runs the command: in this process, or with `start` as people do, in one of its own."""

    folder: Path
    urls: dict[str, str]
    environment: dict[str, str] = field(default_factory=dict)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(Path(sys.executable).with_name("shirako")), *arguments],
            cwd=self.folder,
            env={**os.environ, "TZ": "CET-1CEST", **self.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(
        self, *arguments: str, status: int = 0, piped: str = "", **environment: str
    ) -> str:
        """Standard output, or standard error where that is empty; never a traceback."""
        with contextlib.chdir(self.folder):
            environment = {**self.environment, **environment}
            result = CliRunner().invoke(main, arguments, input=piped, env=environment)
        assert "Traceback" not in result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
        assert result.exit_code == status, (arguments, result.exit_code, result.output)
        return result.stdout or result.stderr

    def json(self, *arguments: str, status: int = 0, **environment: str) -> Any:
        return json.loads(self(*arguments, "--json", status=status, **environment))

    def at(self, actor: str, token: str) -> dict[str, str]:
        """The environment of somebody who works with one actor."""
        secret = (self.folder / f"{token}.token").read_text()
        return {"SHIRAKO_URL": self.urls[actor], "SHIRAKO_TOKEN": secret}


def make(folder: Path, descriptor: str = DESCRIPTOR) -> Cli:
    """A folder with a descriptor on free ports; nothing runs yet."""
    ports = free_ports(("127.0.0.1",), seed=str(folder))
    chosen = {name: next(ports) for name in ("site", "broker", "guest")}
    (folder / "actors.xml").write_text(descriptor.format(**chosen))
    urls = {name: f"http://127.0.0.1:{port}" for name, port in chosen.items()}
    unset = {"SHIRAKO_URL": "", "SHIRAKO_TOKEN": "", "XDG_CONFIG_HOME": str(folder / "config")}
    return Cli(folder, urls, unset)


@contextlib.contextmanager
def _serving(cli: Cli, delegations: int, **environment: str) -> Iterator[Cli]:
    """Its actors run in another process, and there are tokens."""
    cli("keys")
    roles = {"ann": "guest", "bob": "guest", "ops": "site-admin", "sales": "broker-admin"}
    for name, role in roles.items():
        secret = cli("token", "create", name, "--role", role).strip()
        (cli.folder / f"{name}.token").write_text(secret)
    process = cli.start("run", "actors.xml", **environment)
    try:
        _wait(cli, process, delegations)
        yield cli
    finally:
        process.terminate()
        out, error = process.communicate(timeout=20)
    assert process.returncode == 0, out + error


@pytest.fixture
def still(tmp_path: Path) -> Cli:
    """The command, in a folder where nothing runs."""
    return make(tmp_path)


@pytest.fixture(scope="session")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """The command, with three actors running, in another process, and tokens."""
    with _serving(make(tmp_path_factory.mktemp("cli")), delegations=2) as cli:
        yield cli


Serve = Callable[..., contextlib.AbstractContextManager[Cli]]


@pytest.fixture(scope="session")
def serve() -> Serve:
    """The same for a descriptor of a test's own, in a folder of its own."""

    def serve(
        folder: Path, descriptor: str, **environment: str
    ) -> contextlib.AbstractContextManager[Cli]:
        count = descriptor.count("<delegation")
        return _serving(make(folder, descriptor), delegations=count, **environment)

    return serve


def _wait(cli: Cli, process: subprocess.Popen[str], delegations: int) -> None:
    for _ in range(300):
        assert process.poll() is None, process.communicate()
        try:
            for url in cli.urls.values():
                with urlopen(f"{url}/api/v1/health", timeout=5):
                    pass
            sales: Any = cli.at("broker", "sales")
            if len(json.loads(cli("broker", "delegations", "--json", **sales))) == delegations:
                return
        except OSError:
            time.sleep(0.05)
    raise AssertionError("the actors did not come up")
