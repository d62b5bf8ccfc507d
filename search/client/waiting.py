"""When a build that is waited for has ended."""

from __future__ import annotations

import time

from search.client.errors import BuildFailed, DeadlinePassed
from search.client.values import Build


def is_done(build: Build, began: float, timeout_s: float | None) -> bool:
    """began: on the monotonic clock. Raises BuildFailed, DeadlinePassed."""
    if build.state in ("failed", "cancelled"):
        why = f": {build.reason}" if build.reason else ""
        raise BuildFailed(
            f"build {build.build_id} of {build.generation} is {build.state}{why}; `reindexer "
            f"upgrade {build.model}` begins again where it can"
        )
    if build.state == "done":
        return True
    if timeout_s is not None and time.monotonic() - began >= timeout_s:
        raise DeadlinePassed(
            f"build {build.build_id} of {build.generation} is {build.state} after {timeout_s:g} s, "
            f"with {build.docs_done:,} of {build.docs_total:,} documents; it goes on by itself"
        )
    return False
