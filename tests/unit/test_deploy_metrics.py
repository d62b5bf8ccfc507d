"""Alert rules, dashboard and monitors: they ask for metrics, labels and jobs that there are."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from typing import Any, get_args

import pytest
import yaml

from search.answer import Part, TookMs
from search.catalog_metrics import JOB_STATES, ROLES, SWITCHES
from search.telemetry import Rejection, Telemetry
from tests.deployment import DEPLOY, ROOT, rendered, rules

NOT_OURS = frozenset({"up", "process_resident_memory_bytes"})
INFO = frozenset({"generation", "model", "fingerprint"})
VALUES: Mapping[str, frozenset[str]] = {
    "kind": frozenset(SWITCHES),
    "leg": frozenset(TookMs._fields),
    "part": frozenset(get_args(Part)),
    "reason": frozenset(get_args(Rejection)),
    "role": frozenset(ROLES),
    "state": frozenset(JOB_STATES),
}


@functools.cache
def _known_metrics() -> dict[str, frozenset[str]]:
    """Labels by the name of each sample that a process gives, without asking a database."""
    telemetry = Telemetry(status=dict)
    labels: dict[str, frozenset[str]] = {}
    for collector in telemetry.registry._collector_to_names:  # all of them, used or not
        for metric in collector.describe() if hasattr(collector, "describe") else ():
            suffixes = {
                "counter": ("_total",),
                "histogram": ("_bucket", "_count", "_sum"),
                "info": ("_info",),
            }.get(metric.type, ("",))
            own = getattr(metric, "_labelnames", None) or getattr(collector, "_labelnames", ())
            for suffix in suffixes:
                more = {"_bucket": {"le"}, "_info": INFO}.get(suffix, set())
                labels[metric.name + suffix] = frozenset(own) | more
    return labels


def _metrics_of(expression: str) -> set[str]:
    """Names of the metrics in a PromQL expression, which must be one that Prometheus takes."""
    promql = pytest.importorskip("promql_parser")
    # What Grafana puts in for itself.
    expression = expression.replace("$__rate_interval", "5m").replace("$instance", ".+")
    promql.parse(expression)
    found = set(re.findall(r"\b((?:reindexer|process)_[a-z0-9_]+|up)\b(?!\s*\()", expression))
    return {name for name in found if not name.endswith("_interval")}


def _check_labels(expression: str, *shown: str) -> None:
    """shown: texts beside the expression that labels are filled into."""
    there = {"instance", "job"}
    for name, filters in re.findall(r"\b(reindexer_\w+)(?:\{([^}]*)\})?", expression):
        labels = _known_metrics()[name]
        there |= labels
        for label, value in re.findall(r'(\w+)(?:=~|!=|!~|=)"([^"]*)"', filters):
            assert label in labels | {"instance"}, f"{name} has no label {label}"
            if label in VALUES:
                named = set(value.split("|"))
                assert named <= VALUES[label], f"{label} is never {named - VALUES[label]}"
    used = set(re.findall(r"\w+", " ".join(re.findall(r"\bby \(([^)]*)\)", expression))))
    for text in shown:
        used |= set(re.findall(r"\$labels\.(\w+)", text))
        used |= set(re.findall(r"\{\{\s*(\w+)\s*\}\}", text))
    assert used <= there, f"{expression}: there is no label {used - there}"


def test_every_label_is_described() -> None:
    rows = re.findall(
        r"(?m)^\| `(\w+)` \| (\w+) \| ([\w, ]*?) ?\|", (ROOT / "docs" / "metrics.md").read_text()
    )
    assert len(rows) > 25
    for name, kind, labels in rows:
        sample = f"{name}_count" if kind == "histogram" else name
        assert set(re.findall(r"\w+", labels)) == _known_metrics()[sample], name


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_watches_metrics_that_exist_and_says_what_to_do(rule: dict[str, Any]) -> None:
    named = _metrics_of(rule["expr"])
    assert named
    assert named <= _known_metrics().keys() | NOT_OURS, named - _known_metrics().keys()
    _check_labels(rule["expr"], *rule["annotations"].values())
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    headings = re.findall(r"(?m)^#+ (.+)$", (ROOT / page).read_text())
    assert anchor in {re.sub(r"[^a-z0-9 -]", "", h.lower()).replace(" ", "-") for h in headings}


def test_the_dashboard_shows_metrics_that_exist() -> None:
    dashboard = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    for target in [target for panel in panels for target in panel["targets"]]:
        _check_labels(target["expr"], target.get("legendFormat", ""))
    expressions += [item["expr"] for item in dashboard["annotations"]["list"]]
    expressions += re.findall(
        r"label_values\(([a-z_]+),", json.dumps(dashboard["templating"]["list"])
    )
    named = {name for expression in expressions for name in _metrics_of(expression)}
    assert len(named) > 15
    assert named <= _known_metrics().keys() | NOT_OURS, named - _known_metrics().keys()
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


@pytest.mark.parametrize("release", ["reindexer", "shop"])
def test_the_job_that_the_rules_ask_for_is_the_one_that_is_scraped(release: str) -> None:
    asked = {job for rule in rules() for job in re.findall(r'\bjob="([^"]+)"', str(rule["expr"]))}
    scraped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    assert asked == {config["job_name"] for config in scraped["scrape_configs"]}
    n_endpoints = 0
    for monitor in rendered(everything=True, release=release):
        if monitor["kind"] in ("ServiceMonitor", "PodMonitor"):
            spec = monitor["spec"]
            for endpoint in spec.get("endpoints", []) + spec.get("podMetricsEndpoints", []):
                n_endpoints += 1
                (relabeling,) = endpoint["relabelings"]
                assert relabeling["targetLabel"] == "job"
                assert {relabeling["replacement"]} == asked
    assert n_endpoints == 2
