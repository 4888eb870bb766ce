"""First fit: the authority's default assignment, the first free units in the pool's order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from shirako.core.policy import Wanted


class FirstFit:
    """Gives as many units as are wanted, or as many as are free if that is enough."""

    def decide(
        self, free: Mapping[str, Sequence[str]], requests: Sequence[Wanted], now: int
    ) -> Iterator[tuple[str, ...]]:
        for request in requests:
            units = tuple(islice(free.get(request.type, ()), request.count))
            yield units if len(units) >= request.least else ()
