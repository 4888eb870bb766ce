"""For all tests: properties are judged by what holds, not by how fast the machine is today."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile(
    "shirako", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("shirako")
