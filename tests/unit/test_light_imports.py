"""What runs often starts fast: nothing brings torch in before a model is needed."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["reindexer.cli", "reindexer.status", "reindexer.sync"])
def test_a_verb_that_may_have_nothing_to_encode_starts_without_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
