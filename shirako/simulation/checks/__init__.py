"""The judges: one module an invariant, each by itself, each on facts alone.

A check sees what was committed, what left an actor and what is on the nodes; never what an actor
holds in memory or believes. `SOUND` has no module: it is violated where code of ours raises what
nobody meant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shirako.simulation.checks.agreement import Agreement
from shirako.simulation.checks.atomic import Atomic
from shirako.simulation.checks.bounded import Bounded
from shirako.simulation.checks.clean import Clean
from shirako.simulation.checks.conflicts import Conflicts
from shirako.simulation.checks.conserve import Conserve
from shirako.simulation.checks.durable import Durable
from shirako.simulation.checks.ends import Ends
from shirako.simulation.checks.exclusive import Exclusive
from shirako.simulation.checks.isolated import Isolated
from shirako.simulation.checks.keys import Keys
from shirako.simulation.checks.rooted import Rooted
from shirako.simulation.checks.withdrawn import Withdrawn
from shirako.simulation.facts import Observer

if TYPE_CHECKING:
    from shirako.simulation.world import World


def all_checks(world: World) -> list[Observer]:
    """One of each."""
    return [
        Exclusive(world),
        Conserve(world),
        Rooted(world),
        Conflicts(world),
        Keys(world),
        Withdrawn(world),
        Ends(world),
        Clean(world),
        Durable(world),
        Agreement(world),
        Atomic(world),
        Isolated(world),
        Bounded(world),
    ]
