"""Three real actor processes with something in their books, to send requests and bytes to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rest import Rest
from shirako.api import Tokens
from shirako.api.tokens import TokenRole
from shirako.demo.processes import ActorProcesses, make_keys
from shirako.descriptor import read_descriptor
from shirako.testbed.ports import free_ports

NAMES = ("site", "broker", "guest")
ADMINS: dict[str, TokenRole] = {
    "site": "site-admin",
    "broker": "broker-admin",
    "guest": "guest",
}
"""Who may change most at each of the three."""
DESCRIPTOR = """\
<actors xmlns="urn:shirako:actors:1" state="state">
  <limits requests-a-second="10000" burst="10000"/>
  <authority name="site" url="http://127.0.0.1:{site}" key="keys/site.jwk">
    <pool type="node" assignment="first-fit" setup-timeout="5s" teardown-timeout="5s">
      <property name="machine.memory" value="2GB"/>
      <driver name="null"/>
      <units prefix="n" count="6"/>
    </pool>
    <delegation name="share" to="broker" type="node" units="4"/>
  </authority>
  <broker name="broker" url="http://127.0.0.1:{broker}" key="keys/broker.jwk"
          allocation="first-come"/>
  <broker name="below" url="http://127.0.0.1:{below}" key="keys/below.jwk"
          allocation="first-come"/>
  <service-manager name="guest" url="http://127.0.0.1:{guest}" key="keys/guest.jwk"
                   demand="renew">
    <guest-driver name="null"/>
  </service-manager>
  <edge from="site" to="broker"/>
  <edge from="broker" to="below"/>
  <edge from="broker" to="guest"/>
</actors>
"""


@dataclass(frozen=True)
class Deployment:
    """The processes of site, broker and guest; one lease is active, one is over."""

    folder: Path
    processes: ActorProcesses
    tokens: dict[TokenRole, str]
    leases: tuple[str, ...]
    kid: str
    """Of the guest's service manager: the holder of all leases."""

    def rest(self, name: str, role: TokenRole | None = None) -> Rest:
        """The API of an actor, with the token of whoever may change most there."""
        return Rest(self.processes.url(name), self.tokens[role or ADMINS[name]])

    def faults(self) -> list[str]:
        """Lines of the actors' logs that tell of a fault of their own."""
        signs = (" ERROR ", "Traceback", " CRITICAL ", "Task exception", "never retrieved")
        return [
            f"{name}: {line}"
            for name in NAMES
            for line in self.processes.log_of(name).read_text(errors="replace").splitlines()
            if any(sign in line for sign in signs)
        ]


@contextmanager
def deployed(folder: Path) -> Iterator[Deployment]:
    """Runs them, as `shirako run` does, until the block ends."""
    ports = free_ports(("127.0.0.1",), seed=str(folder))
    path = folder / "actors.xml"
    path.write_text(DESCRIPTOR.format(**{name: next(ports) for name in (*NAMES, "below")}))
    make_keys(read_descriptor(path, keys=False))
    descriptor = read_descriptor(path)
    made = Tokens(descriptor.state)
    roles: tuple[TokenRole, ...] = ("guest", "site-admin", "broker-admin", "viewer")
    tokens = {role: made.create(role, role) for role in roles}
    processes = ActorProcesses(descriptor, folder)
    try:
        processes.start(*NAMES)
        yield _with_leases(folder, processes, tokens)
    finally:
        processes.stop_all()


def _with_leases(
    folder: Path, processes: ActorProcesses, tokens: dict[TokenRole, str]
) -> Deployment:
    broker = Rest(processes.url("broker"), tokens["broker-admin"])
    guest = Rest(processes.url("guest"), tokens["guest"])
    broker.until("/broker/delegations", lambda answer: bool(answer["delegations"]))
    wanted = {"slice": "blue", "type": "node", "duration": "2h"}
    leases = [str(guest.post("/leases", wanted)["id"]) for _ in range(2)]
    for lease in leases:
        guest.until_state(lease, "Active")
    guest.post(f"/leases/{leases[1]}/close", {})
    guest.until_state(leases[1], "Closed")
    kid = str(guest.get("/status")["kid"])
    return Deployment(folder, processes, tokens, tuple(leases), kid)
