"""What a tool of the selftest found, for tests to ask about."""

from __future__ import annotations

import logging

from reindexer.selftest.proof import Promise, Proof

log = logging.getLogger(__name__)


def promise(proof: Proof, name: str) -> Promise:
    (found,) = (promise for promise in proof.promises if promise.name == name)
    return found


def broken(proof: Proof) -> set[str]:
    """Promises that were not kept, and pytest shows why. Those of speed left out: the machine may
    be busy."""
    found = [promise for promise in proof.promises if not (promise.kept or promise.of_speed)]
    for promise in found:
        log.warning("%s: %s: %s", promise.name, promise.found, "; ".join(promise.detail))
    return {promise.name for promise in found}
