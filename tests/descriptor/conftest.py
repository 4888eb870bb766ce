"""A sound descriptor with its key files, and plug-ins of its own that are really installed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from joserfc.jwk import OKPKey

from shirako.descriptor import Descriptor, DescriptorInvalid, Fault, read_descriptor

VALID = """\
<?xml version="1.0" encoding="UTF-8"?>
<actors xmlns="urn:shirako:actors:1" state="run/state" skew="30s">
  <!-- a site with two pools -->
  <authority name="site" url="http://127.0.0.1:7701" key="keys/site.jwk">
    <pool type="node.small" assignment="t-fit" setup-timeout="5m" teardown-timeout="90s"
          attempts="4" probe="90s">
      <property name="machine.memory" value="2GB"/>
      <driver name="t-ssh" admin-key="keys/admin" tries="7"/>
      <unit name="n1" host="10.231.0.11" port="22" host-key="ssh-ed25519 AAAA"/>
      <units prefix="m" count="3" rack="r1"/>
    </pool>
    <pool type="node.big">
      <assignment name="t-spread" racks="2"/>
      <driver name="t-plain"/>
      <unit name="b1"/>
    </pool>
    <delegation name="share" to="broker" type="node.small" units="4"
                start="2026-01-01T00:00:00Z" end="2027-01-01T02:00:00+02:00"/>
    <delegation name="loose" to="broker" type="node.big" units="1" overbooking="2.5"/>
  </authority>
  <broker name="broker" url="http://127.0.0.1:7702" key="keys/broker.jwk" allocation="t-come"/>
  <service-manager name="guest" url="http://[::1]:7703/" key="keys/guest.jwk" demand="t-static">
    <guest-driver name="t-guest" join="join.sh"/>
    <lease name="first" slice="blue" type="node.small" units="2" for="2h" renew="true">
      <ssh-key file="keys/me.pub"/>
    </lease>
    <lease name="later" slice="blue" type="node.big" units="1" for="1h30m"
           start="2026-05-01T00:00:00Z"/>
  </service-manager>
  <peer name="far" role="authority" url="https://far.example.org:7701" key="keys/far.pub.jwk"/>
  <edge from="site" to="broker"/>
  <edge from="broker" to="guest"/>
  <edge from="far" to="broker"/>
</actors>
"""

PLUGINS = """
from pydantic import BaseModel, ConfigDict
from shirako.handlers import DescriptorPath, Options

class Plain:
    class Options(Options):
        pass

class Ssh:
    class Options(Options):
        admin_key: DescriptorPath
        tries: int = 3

class Guest:
    class Options(Options):
        join: str | None = None

class Fit:
    pass

class Spread:
    class Options(BaseModel):
        model_config = ConfigDict(extra="forbid")
        racks: int

class Odd:
    Options = dict

class Rude:
    class Options(Options):
        def model_post_init(self, context):
            raise RuntimeError("no mood today")
"""

ENTRY_POINTS = """
[shirako.policies.allocation]
t-come = t_shirako_plugins:Fit
[shirako.policies.assignment]
t-fit = t_shirako_plugins:Fit
t-spread = t_shirako_plugins:Spread
[shirako.policies.demand]
t-static = t_shirako_plugins:Fit
[shirako.drivers]
t-plain = t_shirako_plugins:Plain
t-ssh = t_shirako_plugins:Ssh
t-odd = t_shirako_plugins:Odd
t-rude = t_shirako_plugins:Rude
t-broken = t_shirako_plugins_absent:Driver
[shirako.guest_drivers]
t-guest = t_shirako_plugins:Guest
"""


@pytest.fixture(scope="session", autouse=True)
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A distribution on the path, as pip would install it."""
    place = tmp_path_factory.mktemp("plugins")
    (place / "t_shirako_plugins.py").write_text(PLUGINS)
    info = place / "t_shirako_plugins-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: t-shirako-plugins\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(place))
        yield


def write_key(file: Path, *, private: bool = True, mode: int = 0o600) -> OKPKey:
    key = OKPKey.import_key(Ed25519PrivateKey.generate())
    file.write_text(json.dumps(key.as_dict(private=private)))
    file.chmod(mode)
    return key


@pytest.fixture
def make_key() -> Callable[..., OKPKey]:
    return write_key


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with `actors.xml` and every file that it names."""
    keys = tmp_path / "keys"
    keys.mkdir()
    for name in ("site", "broker", "guest"):
        write_key(keys / f"{name}.jwk")
    write_key(keys / "far.pub.jwk", private=False, mode=0o644)
    write_key(keys / "spare.pub.jwk", private=False, mode=0o644)
    (keys / "me.pub").write_text("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA me@home\n")
    (tmp_path / "actors.xml").write_text(VALID)
    return tmp_path


@pytest.fixture
def read(site: Path) -> Callable[[str], Descriptor]:
    """Reads the text as the site's `actors.xml`."""

    def read(text: str) -> Descriptor:
        (site / "actors.xml").write_text(text)
        return read_descriptor(site / "actors.xml")

    return read


@pytest.fixture
def faults(read: Callable[[str], Descriptor]) -> Callable[[str], tuple[Fault, ...]]:
    """The faults of a text; fails where it has none."""

    def faults(text: str) -> tuple[Fault, ...]:
        with pytest.raises(DescriptorInvalid) as caught:
            read(text)
        return caught.value.faults

    return faults
