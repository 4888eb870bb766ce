"""Deterministic simulation: whole worlds of unchanged actors under virtual time, with faults.

loop        an event loop without waiting; lives, which end between any two steps
chance      streams of numbers from the seed; faults: what may go wrong, how often, and what did
clocks, disk, network, nodes, drivers    what actors stand on, and how it fails
seats       where an actor lives: one incarnation after another, over the same disk
people, admins, cheats, attacks          what is asked of actors, by whom, honestly or not
locksmith, restorations                  keys that are replaced; ledgers that come back from backups
weather     what befalls a world from minute to minute; world: everything of one run, to its end
facts, records, checks                   what is seen from outside, and what has to hold
run, shrink, campaign                    one seed; the smallest run that violates; many seeds
"""

from __future__ import annotations
