"""Looks at the nodes from outside: who has an account there, and what is left."""

from __future__ import annotations

import asyncio
import contextlib

from bench.faulting.stand import Stand

PAUSE_SECONDS = 0.1
_MARK = "Shirako guest of lease "

# What a lease may change on a node. Sockets and pid files of daemons come and go.
_SURVEY = r"""
sort /etc/passwd /etc/group /etc/shadow | sed 's/^/account /'
ls -A /home | sed 's/^/home /'
find /tmp /var/tmp /dev/shm /run /var/spool /var/mail -xdev -uid +999 2>/dev/null | sed 's/^/file /'
find /var/lib/shirako -mindepth 1 ! -name fence ! -name lock 2>/dev/null | sed 's/^/file /'
cat /proc/[0-9]*/status 2>/dev/null | awk '
  /^Name:/ { name = $2 } /^State:/ { state = $2 }
  /^Uid:/ && state !~ /[ZX]/ && $2 >= 20000 { print "process " name " of uid " $2 }'
echo "hostname $(hostname)"
md5sum /etc/motd /etc/hostname 2>&1 | sed 's/^/sum /'
"""


class NodeWatch:
    """EXCLUSIVE as a node sees it: never accounts of two leases at once."""

    def __init__(self, stand: Stand) -> None:
        self.doubles: list[str] = []
        self._stand = stand

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.to_thread(self._look)
            await asyncio.sleep(PAUSE_SECONDS)

    def _look(self) -> None:
        for node in self._stand.nodes:
            assert node.root is not None
            with contextlib.suppress(OSError):  # it is being written anew
                lines = (node.root / "etc" / "passwd").read_text().splitlines()
                leases = sorted(
                    line.split(_MARK)[1].split(":")[0] for line in lines if _MARK in line
                )
                if len(leases) > 1:
                    self.doubles.append(f"{node.name} has accounts of {', '.join(leases)} at once")


def survey(stand: Stand) -> dict[str, frozenset[str]]:
    """All that a lease could leave, by the node's name; the directory's is under `directory`."""
    found = {
        node.name: frozenset(stand.inside(node.name, _SURVEY).splitlines()) for node in stand.nodes
    }
    return {**found, "directory": stand.directory_entries()}


def changes(before: dict[str, frozenset[str]], after: dict[str, frozenset[str]]) -> list[str]:
    """What is there that was not, and the other way round."""
    return [
        f"{where}: {word}: {what}"
        for where in before
        for word, lines in (
            ("left over", after[where] - before[where]),
            ("missing", before[where] - after[where]),
        )
        for what in sorted(lines)
    ]
