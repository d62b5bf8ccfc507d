"""Every tool on the scale of a coffee break."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from reindexer.selftest.gate import prove_gate
from reindexer.selftest.kill import prove_kills
from reindexer.selftest.proof import Proof
from reindexer.selftest.soak import prove_soak
from reindexer.selftest.switch import prove_switch
from reindexer.selftest.writes import prove_writes


def every_tool() -> list[tuple[Callable[..., Proof], Mapping[str, Any]]]:
    """Each with its sizes; three minutes together on two quiet cores."""
    return [
        (prove_kills, {"kills": 60}),
        (prove_writes, {"operations": 4_000}),
        (prove_switch, {"queries": 5_000, "switches": 10}),
        (prove_gate, {"documents": 1_000, "queries": 300, "healthy": 3}),
        (prove_soak, {"minutes": 0.75}),
    ]
