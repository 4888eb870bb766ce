"""A box of real nodes, and what its users see of it with programs that are not ours."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from rest import Rest, make_tokens
from shirako.demo.box import Box
from shirako.testbed import Node

NODES = 4


class World:
    """The box, and what its users see of it."""

    def __init__(self, box: Box) -> None:
        """The box has been started. Returns once the broker has something to sell."""
        self.box = box
        tokens = make_tokens(box.descriptor.state)
        self.guest = Rest(box.actors.url("guest"), tokens["guest"])
        self.site = Rest(box.actors.url("site"), tokens["site-admin"])
        self.broker = Rest(box.actors.url("broker"), tokens["broker-admin"])
        self.broker.until("/broker/delegations", lambda answer: bool(answer["delegations"]))

    def lease(self, **wanted: object) -> str:
        body = {
            "slice": "blue",
            "type": "node.small",
            "units": 1,
            "duration": "1h",
            "ssh_keys": [self.box.guest_key.public],
            **wanted,
        }
        return str(self.guest.post("/leases", body)["id"])

    def end(self, lease: str) -> Any:
        self.guest.call("POST", f"/leases/{lease}/close", {})
        return self.guest.until(f"/leases/{lease}", lambda a: a["final"])

    def nodes(self) -> dict[str, Any]:
        """What the site says of its nodes, by name."""
        return {node["name"]: node for node in self.site.get("/site/nodes")["nodes"]}

    def at_site(self, lease: str) -> Any:
        """The authority's own view of a lease; None before it has heard of it."""
        return next(iter(self.site.get(f"/site/leases?id={lease}")["leases"]), None)

    def site_story(self, lease: str) -> list[str]:
        """What handlers and other events left in the authority's story of a lease."""
        seen = self.at_site(lease)
        if seen is None:
            return []
        story = self.site.get(f"/site/leases/{seen['holder']}/{lease}/story")["story"]
        return [line["note"] for line in story]

    def node(self, name: str) -> Node:
        return next(node for node in self.box.site.nodes if node.name == name)

    def ssh(self, unit: dict[str, Any], command: str) -> subprocess.CompletedProcess[str]:
        """The guest's own ssh, with the host key that the lease told it and no other."""
        known = self.box.folder / "known_hosts"
        port = unit["port"]
        host = unit["host"] if port == 22 else f"[{unit['host']}]:{port}"
        known.write_text(f"{host} {unit['host_key']}\n")
        return ssh(self.box.guest_key.private, known, unit["user"], unit["host"], port, command)

    def as_admin(self, name: str, command: str) -> subprocess.CompletedProcess[str]:
        node = self.node(name)
        known = self.box.folder / "known_hosts_admin"
        known.write_text(f"{node.host} {node.host_key}\n")
        key = self.box.site.admin_key
        return ssh(key, known, node.admin_user, node.host, node.port, command)

    def inside(self, name: str, script: str) -> str:
        """What a shell prints as root on a node, from outside and without SSH."""
        done = subprocess.run(
            [*self.enter(name), "sh", "-e", "-c", script],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert done.returncode == 0, done
        return done.stdout

    def enter(self, name: str) -> list[str]:
        """The beginning of a command line that is to be run on a node."""
        root = self.node(name).root
        assert root is not None
        environment = "PATH=/usr/sbin:/usr/bin:/sbin:/bin"
        return ["nsenter", "--target", root.parent.name, "--all", "env", environment]

    def directory(self, query: str) -> str:
        where = self.box.site.directory
        found = subprocess.run(
            ["ldapsearch", "-x", "-LLL", "-H", where.url, "-b", where.base_dn, query],
            capture_output=True,
            text=True,
            check=True,
        )
        return found.stdout


def ssh(
    key: Path, known: Path, user: str, host: str, port: int, command: str
) -> subprocess.CompletedProcess[str]:
    options = [
        f"UserKnownHostsFile={known}",
        "StrictHostKeyChecking=yes",
        "IdentitiesOnly=yes",
        "BatchMode=yes",
        "ConnectTimeout=5",
    ]
    flags = [part for option in options for part in ("-o", option)]
    return subprocess.run(
        ["ssh", "-F", "none", "-i", str(key), "-p", str(port), *flags, f"{user}@{host}", command],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=30,
    )
