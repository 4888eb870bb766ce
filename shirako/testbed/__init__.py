"""A site to try things on: a private slapd and N nodes with real sshds, on this machine.

site        what it offers
testbed     starting and stopping it all
namespaces  nodes for root (image, accounts: their files; network: their bridge; node.sh: inside)
processes   nodes for everybody else
slapd       the directory; sshd: what all sshds share
children    processes that die with us; remains: what was made, and clearing it
components  the programs needed; ports: the free ones
"""

from shirako.testbed.site import (
    Directory,
    InUse,
    MissingComponent,
    Mode,
    Node,
    Site,
    Tell,
    TestbedError,
)
from shirako.testbed.testbed import Testbed

__all__ = [
    "Directory",
    "InUse",
    "MissingComponent",
    "Mode",
    "Node",
    "Site",
    "Tell",
    "Testbed",
    "TestbedError",
]
