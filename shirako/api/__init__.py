"""REST on each actor: `application(actor, tokens, descriptor, upkeep)`, under `/api/v1`.

serving     the application: routes of the actor's role, one answer for every error
guest, site, broker, status   the routes of the three roles, and those that all have
records     what those do alike with records of leases
routes      what a route is: who may call it, what goes in, what comes out
models      the JSON that people's programs see; views: from records to models
stream      a lease's changes as server-sent events
recover     the end of the hold after a restore; recovery_models: its JSON
openapi     the description of it all, made from the routes and the models
tokens      who may do what; problems: RFC 9457
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shirako.api.problems import Problem
from shirako.api.tokens import Tokens

if TYPE_CHECKING:
    from shirako.api.serving import Upkeep, application

__all__ = ["Problem", "Tokens", "Upkeep", "application"]


def __getattr__(name: str) -> Any:
    """Two names bring the server and the actors with them: clients do not wait for those."""
    if name not in ("application", "Upkeep"):
        raise AttributeError(f"module {__name__} has no {name}")
    from shirako.api import serving

    return getattr(serving, name)
