"""Three actors as three processes, with units that are only pretended, or with real nodes."""

from __future__ import annotations

from dataclasses import dataclass

from rest import Rest
from shirako.demo.processes import ActorProcesses

DESCRIPTOR = """\
<actors xmlns="urn:shirako:actors:1" state="state">
  <authority name="site" url="http://127.0.0.1:{site}" key="keys/site.jwk">
    <pool type="node" assignment="first-fit" setup-timeout="30s" teardown-timeout="30s">
      <property name="machine.memory" value="2GB"/>
      <driver name="null" {driver}/>
      <units prefix="n" count="{units}"/>
    </pool>
    <delegation name="share" to="broker" type="node" units="{units}"/>
  </authority>
  <broker name="broker" url="http://127.0.0.1:{broker}" key="keys/broker.jwk"
          allocation="first-come"/>
  <service-manager name="guest" url="http://127.0.0.1:{guest}" key="keys/guest.jwk"
                   demand="renew">
    {guest_driver}
  </service-manager>
  <edge from="site" to="broker"/>
  <edge from="broker" to="guest"/>
</actors>
"""


@dataclass(frozen=True)
class Trio:
    """Site, broker and guest, each a process."""

    processes: ActorProcesses
    guest: Rest
    site: Rest
    broker: Rest

    def request(self, **wanted: object) -> str:
        body = {"slice": "blue", "type": "node", "units": 1, "duration": "1h", **wanted}
        return str(self.guest.post("/leases", body)["id"])
