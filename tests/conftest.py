"""Fixtures that more than one layer of tests uses."""

from hypothesis import HealthCheck, settings

# A machine that others share is slow at times; that is no finding.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")
