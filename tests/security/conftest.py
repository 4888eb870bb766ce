"""A site whose actors answer at https alone, with certificates made by the command itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from shirako.api import Tokens
from shirako.api.tokens import TokenRole
from shirako.assembly import Running, running
from shirako.certificates import client_context
from shirako.cli import main
from shirako.client import Client
from shirako.demo.processes import make_keys
from shirako.descriptor import Descriptor, read_descriptor
from shirako.testbed.ports import free_ports
from shirako.transport.limits import Limits

NAMES = ("site", "broker", "guest")
DESCRIPTOR = """\
<actors xmlns="urn:shirako:actors:1" state="state">
  {tls}
  <authority name="site" url="{scheme}://127.0.0.1:{ports[0]}" key="keys/site.jwk">
    <pool type="node" assignment="first-fit">
      <driver name="null"/>
      <units prefix="n" count="4"/>
    </pool>
    <delegation name="share" to="broker" type="node" units="4"/>
  </authority>
  <broker name="broker" url="{scheme}://127.0.0.1:{ports[1]}" key="keys/broker.jwk"
          allocation="first-come"/>
  <service-manager name="guest" url="{scheme}://127.0.0.1:{ports[2]}" key="keys/guest.jwk"
                   demand="static">
    <guest-driver name="null"/>
  </service-manager>
  <edge from="site" to="broker"/>
  <edge from="broker" to="guest"/>
</actors>
"""


@dataclass
class Deployment:
    """A folder with a descriptor, its keys and certificates, and tokens."""

    folder: Path
    descriptor: Descriptor
    tokens: dict[str, str] = field(default_factory=dict)

    @property
    def certificates(self) -> Path:
        return self.folder / "certs"

    def url(self, name: str) -> str:
        return next(spec.url for spec in self.descriptor.actors if spec.name == name)

    def client(self, name: str, role: str, show: str | None = "ann") -> Client:
        """Of an actor; shows the certificate of `show`."""
        certs = self.certificates
        own = (certs / f"{show}.pem", certs / f"{show}.key") if show else (None, None)
        tls = client_context(certs / "ca.pem", *own) if self.descriptor.tls else None
        return Client(self.url(name), self.tokens[role], attempts=2, tls=tls)

    @asynccontextmanager
    async def apart(
        self, *names: str, limits: Limits | None = None
    ) -> AsyncIterator[dict[str, Running]]:
        """The actors, in this process, but as strangers: they meet through sockets."""
        async with AsyncExitStack() as stack:
            found = {}
            for name in names or NAMES:
                (found[name],) = await stack.enter_async_context(
                    running(self.descriptor, (name,), limits=limits)
                )
            yield found


def shirako(*arguments: str, status: int = 0, environment: Mapping[str, str] | None = None) -> str:
    """What the command prints; never a traceback."""
    result = CliRunner().invoke(main, arguments, env=environment)
    assert "Traceback" not in result.output
    assert result.exit_code == status, (arguments, result.exit_code, result.output)
    return result.output


def deploy(folder: Path, tls: str, scheme: str = "https") -> Deployment:
    ports = free_ports(("127.0.0.1",), seed=str(folder))
    path = folder / "actors.xml"
    path.write_text(DESCRIPTOR.format(tls=tls, scheme=scheme, ports=[next(ports) for _ in NAMES]))
    if tls:
        shirako("ca", "init", str(folder / "certs"))
        shirako("ca", "issue", str(folder / "certs"), "--actors", str(path))
        shirako("ca", "issue", str(folder / "certs"), "ann", "--client")
    make_keys(read_descriptor(path, keys=False))
    descriptor = read_descriptor(path)
    tokens = Tokens(descriptor.state)
    roles: tuple[TokenRole, ...] = ("guest", "site-admin", "broker-admin")
    return Deployment(folder, descriptor, {role: tokens.create(role, role) for role in roles})


@pytest.fixture
def mutual(tmp_path: Path) -> Deployment:
    """https, and every client has to show a certificate."""
    return deploy(tmp_path, '<tls certificates="certs" mutual="true"/>')


@pytest.fixture
def one_way(tmp_path: Path) -> Deployment:
    """https, for clients without certificates too."""
    return deploy(tmp_path, '<tls certificates="certs"/>')


@pytest.fixture
def plain(tmp_path: Path) -> Deployment:
    return deploy(tmp_path, "", "http")


async def come_true(holds: Callable[[], Any], seconds: float = 20.0) -> None:
    """Waits until it holds."""
    for _ in range(int(seconds / 0.02)):
        if holds():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not come true")


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of whoever runs the tests gets in."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("URL", "TOKEN", "CA", "CERT", "CERT_KEY"):
        monkeypatch.delenv(f"SHIRAKO_{name}", raising=False)
