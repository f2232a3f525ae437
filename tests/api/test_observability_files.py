"""The alerts and the dashboard of deploy/observability: they load, and name metrics that there are."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import promql_parser
import pytest
import yaml
from langgraph_sdk.client import LangGraphClient
from prometheus_client.parser import text_string_to_metric_families

from tests.acceptance.talk import says

ROOT = Path(__file__).parents[2]
FILES = ROOT / "deploy/observability"
RULES = yaml.safe_load((FILES / "alerts.yml").read_text())
DASHBOARD = json.loads((FILES / "dashboard.json").read_text())
#: What Grafana puts in place of its variables.
GRAFANA = {"$__rate_interval": "1m", "$job": "threadwell", "$instance": ".*"}
SUFFIXES = {
    "counter": ("_total",), "gauge": ("",), "info": ("_info",),
    "histogram": ("_bucket", "_sum", "_count"),
}  # fmt: skip


def alerts() -> Iterator[tuple[str, str]]:
    for group in RULES["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


def panels() -> Iterator[tuple[str, str]]:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"]
            for variable, value in GRAFANA.items():
                expression = expression.replace(variable, value)
            yield panel["title"], expression


EXPRESSIONS = [*alerts(), *panels()]


def named(expression: str) -> set[str]:
    """The metrics that an expression is about."""
    found: set[str] = set()

    def visit(node: Any) -> bool:
        if isinstance(node, promql_parser.VectorSelector):
            found.add(str(node.name))
        return True

    promql_parser.walk(promql_parser.parse(expression), visit)
    return found


def test_every_expression_is_one() -> None:
    assert len(list(alerts())) >= 10
    assert len(list(panels())) >= 30
    for place, expression in EXPRESSIONS:
        assert "$" not in expression, place
        assert named(expression), place


async def test_every_metric_they_name_is_there(
    client: LangGraphClient, http: httpx.AsyncClient
) -> None:
    await client.runs.wait(None, "chat", input=says("hello"))
    text = (await http.get("/metrics")).text
    there = {
        family.name + suffix
        for family in text_string_to_metric_families(text)
        for suffix in SUFFIXES.get(family.type, ("",))
    }
    wanted = set().union(*(named(expression) for _, expression in EXPRESSIONS)) - {"up"}
    assert sorted(wanted - there) == []
    # And the page tells of every one that is there.
    page = (ROOT / "docs/observability.md").read_text()
    ours = {name.removeprefix("threadwell_") for name in there if name.startswith("threadwell_")}
    untold = {
        name
        for name in ours
        if re.sub("_(bucket|sum|count)$", "", name) not in page and name not in page
    }
    assert untold <= {"postgres_connections_used"}  # told as `…_used`


def test_labels_they_select_by_are_ours() -> None:
    labels = {
        label for _, expression in EXPRESSIONS for label in re.findall(r"(\w+)=~?\"", expression)
    }
    assert labels <= {"job", "instance", "status", "why", "kind", "outcome"}


def test_prometheus_itself_takes_them_and_they_fire() -> None:
    """By promtool of Debian's package `prometheus`; without it the tests above parse them all the same."""
    unpacked = ROOT / ".venv-deploy/prometheus/usr/bin"
    promtool = shutil.which("promtool") or shutil.which("promtool", path=str(unpacked))
    if promtool is None:
        pytest.skip("promtool is not installed: `make test` unpacks it where there is apt")
    for arguments in (
        ["check", "rules", "alerts.yml"],
        ["test", "rules", "alerts.test.yml"],
        ["check", "config", "--syntax-only", "prometheus.yml"],
    ):
        done = subprocess.run(
            [promtool, *arguments], cwd=FILES, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
