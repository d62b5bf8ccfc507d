"""What the tests of deploy/ share: where things are, what a command may be, the rendered chart."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from reindexer.cli import cli
from reindexer.settings import Settings

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "reindexer"

# Everything that can be switched on, on.
ALL_ON: dict[str, Any] = {
    "build": {
        "enabled": True,
        "model": "support@4",
        "evaluation": {"folder": "/data/judged", "split": "test"},
        "nodeSelector": {"gpu": "yes"},
    },
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


def check_command(words: list[str]) -> None:
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


@functools.cache
def rendered(everything: bool, release: str = "reindexer") -> list[dict[str, Any]]:
    """Kubernetes objects, rendered by Helm itself."""
    return render(ALL_ON if everything else {}, release)


def render(values: dict[str, Any], release: str = "reindexer") -> list[dict[str, Any]]:
    helm = pytest.importorskip("helm_python.chart", reason="pip install helm-python-sdk")
    with helm.Chart.load(CHART) as chart:
        files = chart.render(values=values, name=release, namespace="search")
    return [
        value
        for name, text in files.items()
        if name.endswith(".yaml")
        for value in yaml.safe_load_all(text)
        if value
    ]


def object_of(kind: str, name: str = "") -> dict[str, Any]:
    found = [
        value
        for value in rendered(everything=True)
        if value["kind"] == kind and value["metadata"]["name"].endswith(name)
    ]
    assert len(found) == 1, f"{kind} {name}: {len(found)}"
    return found[0]


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    for value in rendered(everything=True):
        spec = value.get("spec", {})
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        if "template" in spec:
            yield value["metadata"]["name"], spec["template"]["spec"]


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found
