"""The rules of the house, run by the tests so that nobody has to remember them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("training", "search", "reindexer")
CONNECTS = re.compile(
    r"(?<!class )\b(httpx\.(Async)?Client|httpx\.(get|post|put|stream|request)|(Async)?OpenAI"
    r"|urlopen|QdrantClient|QdrantCalls\.to|url_to_fs|fsspec\.(open|filesystem)|HfApi"
    r"|snapshot_download|load_dataset|create_engine|OTLPSpanExporter|ray\.init|aiohttp\.ClientSession"
    r"|(Async)?SearchClient|create_connection|requests\.\w+)\("
)
FOR_OTHER_PROGRAMS = ("search/client/", "search/adapters/")
# Whose address no list of hosts has to allow.
UNLIMITED = {
    "search/database.py": "database.url: the operator's",
    "search/dense_qdrant.py": "store.url: the operator's",
    "search/traces.py": "OTEL_EXPORTER_OTLP_ENDPOINT: the operator's",
    "reindexer/fanout_ray.py": "ray.address: the operator's",
    "search/qdrant_calls.py": "for search/qdrant_payloads.py",
    "search/qdrant_payloads.py": "for reindexer/sources/collection.py, which checks",
    "reindexer/running_service.py": "the service of this data directory",
    "reindexer/demo.py": "the service that the demo starts",
}


def _run(*command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_finds_nothing() -> None:
    _run("ruff", "check", ".")
    _run("ruff", "format", "--check", ".")


def test_mypy_finds_nothing() -> None:
    _run("mypy")


def test_imports_follow_the_contracts() -> None:
    code = "import sys; from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_ci_runs_the_second_command_of_the_readme() -> None:
    commands = re.findall(r"```sh\n(.*?)\n```", (ROOT / "README.md").read_text(), re.DOTALL)
    test_command = next(command for command in commands if ".venv/bin/pytest" in command)
    assert test_command in (ROOT / ".ci" / "run").read_text()


def test_every_relative_link_in_the_documentation_leads_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_what_opens_a_connection_asks_whether_it_may() -> None:
    """A new place calls training.outgoing first, or says in UNLIMITED whose address it is."""
    connecting, checking = set(), set()
    for path in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        text, name = path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix()
        if CONNECTS.search(text) and not name.startswith(FOR_OTHER_PROGRAMS):
            connecting.add(name)
        if re.search(r"check_(address|hub|request)\(", text):
            checking.add(name)
    assert connecting - checking == set(UNLIMITED)
    assert "training/outgoing.py" in checking
