"""What holds for every layer of tests."""

import os

from hypothesis import HealthCheck, settings

# Workers share the cores already: one that computes in many threads waits for the others'.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A machine that others share is slow at times; that is no finding.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")
