"""The Helm chart: rendered by Helm itself, taken by Kubernetes, and meaning what it says."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from tests.deployment import (
    ALL_ON,
    CHART,
    KEYS,
    VARIABLES,
    check_command,
    object_of,
    pods,
    render,
    rendered,
    rules,
)

PROBED = frozenset({"/healthz", "/readyz"})
KUBERNETES = "v1.31.0-local-strict"
DEFINITIONS = "_definitions.json"


def test_every_setting_of_the_chart_exists_and_has_a_usable_value() -> None:
    from reindexer.settings import environment_variable, read_settings

    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert set(values["settings"]) <= KEYS
    environment = {environment_variable(key): value for key, value in values["settings"].items()}
    chosen = read_settings({}, environment=environment)
    grace = values["serve"]["terminationGracePeriodSeconds"]
    assert grace > chosen.drain_notice_s + chosen.serve_drain_s + 10
    assert values["worker"]["terminationGracePeriodSeconds"] > chosen.drain_s + 10


def test_the_chart_has_what_it_promises() -> None:
    kinds = sorted(value["kind"] for value in rendered(everything=False))
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
    more = {value["kind"] for value in rendered(everything=True)} - set(kinds)
    assert more == {
        "CronJob",
        "HorizontalPodAutoscaler",
        "Ingress",
        "Job",
        "PodMonitor",
        "PrometheusRule",
        "ServiceMonitor",
    }


@pytest.mark.parametrize(("everything", "n_ours"), [(False, 8), (True, 12)])
def test_every_object_of_the_chart_is_one_that_kubernetes_takes(
    everything: bool, n_ours: int
) -> None:
    package = importlib.util.find_spec("kubernetes_validate")  # to import it takes 8 s
    if package is None or package.origin is None:
        pytest.skip("Kubernetes' schemas are not installed (pip install kubernetes-validate)")
    schemas = Path(package.origin).parent / "kubernetes-json-schema" / KUBERNETES
    definitions = json.loads((schemas / DEFINITIONS).read_text())
    registry = jsonschema_rs.Registry([(f"json-schema:///{DEFINITIONS}", definitions)])
    n_checked = 0
    for value in rendered(everything):
        group, _, version = value["apiVersion"].rpartition("/")
        if group != "monitoring.coreos.com":
            named = [value["kind"].lower(), *group.split(".")[:1], version]
            name = "-".join(part for part in named if part)
            schema = json.loads((schemas / f"{name}.json").read_text())
            jsonschema_rs.validator_for(schema, registry=registry).validate(value)
            n_checked += 1
    assert n_checked == n_ours


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
        {"build": {"evaluation": {"folder": "judged"}}},
        {"networkPolicy": {"ingressNamespaces": "ingress-nginx"}},
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
    found = dict(pods())
    assert len(found) == 4
    for name, pod in found.items():
        assert pod["securityContext"]["runAsNonRoot"], name
        assert not pod["automountServiceAccountToken"], name
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"]
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert "limits" in container["resources"]
            check_command([str(word) for word in container["args"]])
            variables = {item["name"] for item in container["env"]}
            assert variables <= VARIABLES
    assert set(object_of("ConfigMap")["data"]) <= VARIABLES


def test_the_probes_ask_what_the_service_answers() -> None:
    (container,) = object_of("Deployment", "-serve")["spec"]["template"]["spec"]["containers"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["startupProbe"]["httpGet"]["path"] in PROBED
    (container,) = object_of("Deployment", "-worker")["spec"]["template"]["spec"]["containers"]
    (port,) = container["ports"]
    asked = {"path": "/metrics", "port": port["name"]}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"] == asked
    assert str(port["containerPort"]) == container["args"][container["args"].index("9321")]


def test_the_build_runs_on_a_gpu_and_stops_before_the_switch() -> None:
    pod = object_of("Job")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    judged = ["--eval", "/data/judged", "--split", "test"]
    assert container["args"] == ["upgrade", "support@4", "--yes", "--no-cutover", *judged]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert container["image"].endswith("-cuda")


def test_the_build_needs_no_judged_queries_and_other_ones_are_another_job() -> None:
    def job(**evaluation: str) -> dict[str, Any]:
        values = {"build": {"enabled": True, "model": "support@4", "evaluation": evaluation}}
        (found,) = [value for value in render(values) if value["kind"] == "Job"]
        return found

    plain = job()
    (container,) = plain["spec"]["template"]["spec"]["containers"]
    assert container["args"] == ["upgrade", "support@4", "--yes", "--no-cutover"]
    assert plain["metadata"]["name"] != job(folder="/data/judged")["metadata"]["name"]


def test_the_network_policy_lets_in_whoever_has_to_ask() -> None:
    def peers(everything: bool) -> dict[tuple[str, ...], list[int]]:
        """Which ports are open to the namespaces of these names; () is this one."""
        (policy,) = [v for v in rendered(everything) if v["kind"] == "NetworkPolicy"]
        found: dict[tuple[str, ...], list[int]] = {}
        for rule in policy["spec"]["ingress"]:
            ports = [port["port"] for port in rule["ports"]]
            for peer in rule["from"]:
                names: tuple[str, ...] = ()
                if "namespaceSelector" in peer:
                    (expression,) = peer["namespaceSelector"]["matchExpressions"]
                    assert expression["key"] == "kubernetes.io/metadata.name"
                    names = tuple(expression["values"])
                found[names] = ports
        return found

    assert peers(everything=False) == {(): [8321, 9321]}
    assert peers(everything=True) == {
        (): [8321, 9321],
        ("ingress-nginx",): [8321],
        ("monitoring",): [8321, 9321],
    }


def test_the_network_policy_lets_out_to_stores_names_and_each_other() -> None:
    policy = object_of("NetworkPolicy")["spec"]
    own, *others = policy["egress"]
    assert own["ports"] == [{"port": 8321, "protocol": "TCP"}]
    assert own["to"] == [{"podSelector": policy["podSelector"]}]
    assert all("to" not in rule for rule in others)
    assert {port["port"] for rule in others for port in rule["ports"]} >= {53, 5432, 6333, 6334}


def test_selectors_select_the_pods_they_mean() -> None:
    serve = object_of("Deployment", "-serve")["spec"]["template"]["metadata"]["labels"].items()
    for selector in (
        object_of("Service")["spec"]["selector"],
        object_of("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        object_of("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        object_of("Deployment", "-serve")["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= serve
    worker = object_of("Deployment", "-worker")["spec"]["template"]["metadata"]["labels"].items()
    assert not object_of("Service")["spec"]["selector"].items() <= worker


def test_the_rules_of_the_chart_are_those_of_prometheus() -> None:
    assert object_of("PrometheusRule")["spec"]["groups"][0]["rules"] == rules()
