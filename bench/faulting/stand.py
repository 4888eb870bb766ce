"""Real nodes, a real directory, and three actors in three processes with proxies in between.

Each process has its own copy of the descriptor, in which the others' addresses are those of
proxies. The site's own address is an exception: guests find it in their tickets, signed by the
site. So the site is started once at the address of the proxy before it, delegates, and moves.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lxml import etree

from bench.faulting.actors import ActorProcess
from bench.faulting.disk import SmallDisk
from bench.faulting.proxy import Proxy
from shirako.api import Tokens
from shirako.api.tokens import TokenRole
from shirako.assembly import running
from shirako.client import Client
from shirako.demo.box import GuestKey, make_guest_key
from shirako.demo.placing import NAMESPACE, place
from shirako.demo.processes import make_keys
from shirako.descriptor import read_descriptor
from shirako.testbed import Node, Site, Testbed, TestbedError
from shirako.testbed.ports import free_ports

ACTORS = ("site", "broker", "guest")
TYPE = "node.small"
LINKS = ("guest-broker", "guest-site", "site-broker", "to-guest", "site-directory")
"""Proxies. Broker and site both find the guest at one address: the guest's key and address are in
the ticket, as the broker knows them."""

DISK_MEGABYTES = 64

DESCRIPTOR = """\
<actors xmlns="urn:shirako:actors:1" state="state" skew="30s">
  <authority name="site" url="http://127.0.0.1:7701" key="keys/site.jwk">
    <pool type="node.small" assignment="first-fit" setup-timeout="20s" teardown-timeout="20s"
          attempts="2">
      <driver name="ssh" admin-key="admin_key" connect-timeout="2" attempts="3"
              retry-pause="0.3"/>
      <driver name="directory" url="ldap://127.0.0.1:389" base-dn="dc=shirako,dc=test"
              bind-dn="cn=admin,dc=shirako,dc=test" password-file="password"
              connect-timeout="2" operation-timeout="2"/>
      <units prefix="node-" count="{nodes}"/>
    </pool>
    <delegation name="share" to="broker" type="node.small" units="{nodes}"/>
  </authority>
  <broker name="broker" url="http://127.0.0.1:7702" key="keys/broker.jwk"
          allocation="first-come"/>
  <service-manager name="guest" url="http://127.0.0.1:7703" key="keys/guest.jwk" demand="renew">
    <guest-driver name="ssh" key="guest_key" join="join.sh" leave="leave.sh"
                  connect-timeout="2" command-timeout="15" attempts="3" retry-pause="0.3"/>
  </service-manager>
  <edge from="site" to="broker"/>
  <edge from="broker" to="guest"/>
</actors>
"""

JOIN = """\
# What a guest leaves all over a node: the teardown has to find it.
echo "$SHIRAKO_LEASE $SHIRAKO_EPOCH" >>"$HOME/joined"
touch "/tmp/of-$SHIRAKO_LEASE" "/var/tmp/of-$SHIRAKO_LEASE" "/dev/shm/of-$SHIRAKO_LEASE"
nohup sleep 100000 >/dev/null 2>&1 &
"""
LEAVE = 'rm -f "/tmp/of-$SHIRAKO_LEASE"\n'

Tell = Callable[[str], None]


class Stand:
    """Everything lies in `folder`, which is new. An asynchronous context manager."""

    def __init__(self, folder: Path, *, nodes: int, tell: Tell) -> None:
        self.folder = folder
        self.testbed = Testbed(folder / "testbed", nodes=nodes, mode="namespaces")
        self.disk = SmallDisk(folder / "state", DISK_MEGABYTES)
        self.actors: dict[str, ActorProcess] = {}
        self.links: dict[str, Proxy] = {}
        self.guest_key: GuestKey
        self._count = nodes
        self._tell = tell
        self._tokens: dict[str, str] = {}
        self._site: Site
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Stand:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def nodes(self) -> tuple[Node, ...]:
        return self._site.nodes

    def node(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)

    def client(self, actor: str) -> Client:
        """Speaks to the actor itself, with a token of its own kind; what fails is not repeated."""
        return Client(self.actors[actor].url, self._tokens[actor], attempts=1)

    def ledger(self, actor: str) -> Path:
        return self.disk.path / f"{actor}.sqlite"

    # Nodes and the directory, from outside --------------------------------------------------------

    def inside(self, name: str, script: str) -> str:
        """What a shell prints as root on a node, without SSH. Raises `CalledProcessError`."""
        return self._enter(name, ("--all",), ("env", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"), script)

    def unplug(self, name: str) -> None:
        self._enter(name, ("--net",), (), "ip link set eth0 down")

    def plug(self, name: str) -> None:
        self._enter(name, ("--net",), (), "ip link set eth0 up")

    def _enter(
        self, name: str, spaces: tuple[str, ...], environment: tuple[str, ...], script: str
    ) -> str:
        root = self.node(name).root
        assert root is not None
        command = ("nsenter", "--target", root.parent.name, *spaces, *environment, "sh", "-c")
        done = subprocess.run((*command, script), capture_output=True, text=True, check=True)
        return done.stdout

    def directory_pid(self) -> int:
        return int((self.folder / "testbed" / "directory" / "pid").read_text())

    def directory_entries(self) -> frozenset[str]:
        """Distinguished names of all that is in the directory."""
        where = self._site.directory
        at = ("-H", where.url, "-b", where.base_dn)
        done = subprocess.run(
            ("ldapsearch", "-x", "-LLL", "-o", "ldif-wrap=no", *at, "dn"),
            capture_output=True,
            text=True,
            check=True,
        )
        return frozenset(line[4:] for line in done.stdout.splitlines() if line.startswith("dn: "))

    # Starting -------------------------------------------------------------------------------------

    async def _start(self) -> None:
        self._stack.callback(self.testbed.stop)
        self._site = await asyncio.to_thread(self.testbed.start, self._tell)
        self._stack.callback(self.disk.unmount)
        self.disk.mount()
        placed = self._place()
        make_keys(read_descriptor(placed, keys=False))
        for link in self._make_links(placed):
            self.links[link.name] = link
        await self._delegate(placed)
        for link in self.links.values():
            await link.start()
            self._stack.push_async_callback(link.stop)
        for name in ACTORS:
            self._hire(name, self._copy(placed, name))
        await asyncio.gather(*(actor.start() for actor in self.actors.values()))
        async with self.client("broker") as broker:
            for _ in range(500):
                if await broker.broker_delegations():
                    return
                await asyncio.sleep(0.02)
        raise TestbedError("the site's delegation did not reach the broker")

    def _place(self) -> Path:
        template = self.folder / "template.xml"
        template.write_text(DESCRIPTOR.format(nodes=self._count))
        (self.folder / "join.sh").write_text(JOIN)
        (self.folder / "leave.sh").write_text(LEAVE)
        self.guest_key = make_guest_key(self.folder / "guest_key")
        placed = place(
            template, self._site, self.folder, guest_key=self.guest_key.private, keep_ports=False
        )
        roles: dict[str, TokenRole] = {
            "site": "site-admin",
            "broker": "broker-admin",
            "guest": "guest",
        }
        tokens = Tokens(self.disk.path)
        self._tokens = {name: tokens.create(f"person-{name}", role) for name, role in roles.items()}
        return placed

    def _make_links(self, placed: Path) -> list[Proxy]:
        specs = {spec.name: spec for spec in read_descriptor(placed).actors}
        addresses = {name: _address(spec.url) for name, spec in specs.items()}
        taken = {port for _, port in addresses.values()}
        directory = _address(self._site.directory.url)
        targets = {
            "guest-broker": addresses["broker"],
            "guest-site": addresses["site"],
            "site-broker": addresses["broker"],
            "to-guest": addresses["guest"],
            "site-directory": directory,
        }
        ports = free_ports(("127.0.0.1",), seed=f"{self.folder} links")
        free = (port for port in ports if port not in taken)
        return [Proxy(name, next(free), targets[name]) for name in LINKS]

    async def _delegate(self, placed: Path) -> None:
        """Let the site delegate at the address that its guests will find it at."""
        at_proxy = read_descriptor(self._copy(placed, "site", first=True))
        async with running(at_proxy, ("site",)) as (site,):
            assert site.actor.role.delegations

    def _hire(self, name: str, descriptor: Path) -> None:
        actor = ActorProcess(name, descriptor)
        self._stack.callback(actor.end)
        self.actors[name] = actor

    def _copy(self, placed: Path, owner: str, *, first: bool = False) -> Path:
        """The descriptor as `owner` is to see it; `first`: it lives where its proxy will be."""
        seen = {
            "site": {"broker": "site-broker", "guest": "to-guest"},
            "broker": {"site": "guest-site", "guest": "to-guest"},
            "guest": {"broker": "guest-broker", "site": "guest-site"},
        }[owner]
        if first:
            seen = {**seen, "site": "guest-site"}
        tree: Any = etree.parse(placed)
        for actor in tree.getroot():
            link = seen.get(actor.get("name"))
            if link is not None:
                actor.set("url", f"http://127.0.0.1:{self.links[link].port}")
        for driver in tree.iter(f"{NAMESPACE}driver"):
            if driver.get("name") == "directory":
                driver.set("url", f"ldap://127.0.0.1:{self.links['site-directory'].port}")
        path = placed.with_name(f"actors.{owner}.xml")
        tree.write(str(path), encoding="UTF-8", xml_declaration=True)
        return path


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port
