"""`just audit`: the bill of materials of this environment, and known vulnerabilities."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from tests.local_server import LocalHandler, LocalServer

ROOT = Path(__file__).parents[2]


def recipe(tool: str) -> list[str]:
    """The command of the recipe `audit` that runs `tool`."""
    lines = (ROOT / "justfile").read_text(encoding="utf-8").splitlines()
    (line,) = [line for line in lines if f"-m {tool} " in line]
    return line.replace("{{python}}", sys.executable).split()


class Vulnerabilities(LocalHandler):
    """Answers as osv.dev does; knows of one hole, in `planted`."""

    planted = ""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        hole: dict[str, Any] = {"id": "PYSEC-0000-1", "summary": "planted", "affected": []}
        found = {"vulns": [hole]} if asked["package"]["name"] == self.planted else {}
        body = json.dumps(found).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def audit(planted: str) -> subprocess.CompletedProcess[str]:
    handler = type("Handler", (Vulnerabilities,), {"planted": planted})
    with LocalServer(handler) as server:
        return subprocess.run(
            [*recipe("pip_audit"), "--osv-url", server.url],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
        )


def test_the_bill_of_materials_names_everything_installed(tmp_path: Path) -> None:
    command = recipe("cyclonedx_py")
    command[command.index("sbom.json")] = str(tmp_path / "sbom.json")
    subprocess.run([*command, "--no-validate"], check=True, cwd=ROOT)

    bill = json.loads((tmp_path / "sbom.json").read_bytes())
    named = {canonicalize_name(part["name"]): part["version"] for part in bill["components"]}
    assert bill["bomFormat"] == "CycloneDX"
    assert named == {canonicalize_name(each.name): each.version for each in distributions()}


def test_a_vulnerable_dependency_fails_the_audit() -> None:
    found = audit("sqlalchemy")
    assert found.returncode == 1
    assert "PYSEC-0000-1" in found.stdout
    assert "Found 1 known vulnerability in 1 package" in found.stderr


def test_dependencies_without_a_known_hole_pass_the_audit() -> None:
    found = audit("")
    assert found.returncode == 0, found.stderr
    assert "No known vulnerabilities found" in found.stderr


def test_an_audit_that_asked_nobody_fails() -> None:
    with LocalServer(Vulnerabilities) as gone:
        pass
    command = [*recipe("pip_audit"), "--osv-url", gone.url]
    assert subprocess.run(command, capture_output=True, cwd=ROOT, check=False).returncode == 1
