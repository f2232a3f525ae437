"""Processes that are started on a whole project: its langgraph.json and what that names."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.processes.embedded import Servers
from tests.acceptance.process import ROOT, serving, starting

PROJECT = ROOT / "tests/project"
GRAPHS = {
    "echo": {"path": f"{PROJECT}/agents.py:echo", "description": "Says what it was told."},
    "broken": f"{PROJECT}/agents.py:nothing",
}


@pytest.fixture
def variables(servers: Servers, database: str) -> dict[str, str]:
    return {"DATABASE_URL": database, "REDIS_URL": servers.redis_url}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Of a project with an application, an environment, and a few things that are not right."""
    (tmp_path / ".env").write_text(
        "LOG_LEVEL=debug\nMOUNT_PREFIX=/my\nBG_JOB_ISOLATED_LOOPS=true\nDATABASE_URL=unused\n"
    )
    path = tmp_path / "langgraph.json"
    keys = {
        "graphs": GRAPHS,
        "env": ".env",
        "dependencies": ["./", "no-such-package"],
        "python_version": "3.12",
        "http": {"app": f"{PROJECT}/site.py:app", "disable_mpc": True},
    }
    path.write_text(json.dumps(keys))
    return path


def _runs(url: str) -> Any:
    body = {"assistant_id": "echo", "input": {"text": "hello"}}
    return httpx.post(f"{url}/runs/wait", json=body, timeout=30).json()["found"][0]["text"]


def test_a_project_is_served_and_what_of_it_is_not_is_said(
    config: Path, variables: dict[str, str]
) -> None:
    with serving(config, variables) as server:
        hello = httpx.get(f"{server.url}/my/hello", timeout=30).json()
        broken = {"assistant_id": "broken", "input": {}}
        refused = httpx.post(f"{server.url}/my/runs/wait", json=broken, timeout=30)
        assert _runs(f"{server.url}/my") == "hello"
        status = server.stop()

    assert hello == {"opened": "opened", "shared": "shared"}
    assert refused.status_code == 424
    assert status == 0
    printed = {
        f"API        {server.url}/my\n",
        f"Docs       {server.url}/my/docs\n",
        f"Studio     https://smith.langchain.com/studio/?baseUrl={server.url}/my\n",
        "site started",
        "site stopped",
        "names=['DATABASE_URL']",
        "key=http.disable_mpc",
        "key=python_version",
        "dependency=no-such-package",
        "name=BG_JOB_ISOLATED_LOOPS",
        "graph_id=broken",
        "has no variable 'nothing'",
    }
    assert {text for text in printed if text not in server.log} == set(), server.log


@pytest.mark.parametrize(
    ("more", "complaints"),
    [
        (
            {"THREADWELL_STRICT": "true"},
            ["graph 'broken'", "`http.disable_mpc`", "no-such-package"],
        ),
        ({"LANGGRAPH_HTTP": "{"}, ["LANGGRAPH_HTTP is not JSON"]),
    ],
)
def test_what_must_not_be_served_is_not(
    config: Path, variables: dict[str, str], more: dict[str, str], complaints: list[str]
) -> None:
    with starting(config, {**variables, **more}) as server:
        assert server.wait() == 1
    assert [text for text in complaints if text not in server.log] == []
    assert "Traceback" not in server.log


def test_what_images_of_the_official_cli_have_in_their_environment_is_enough(
    tmp_path: Path, variables: dict[str, str]
) -> None:
    sections = {
        "LANGSERVE_GRAPHS": json.dumps(GRAPHS),
        "LANGGRAPH_HTTP": json.dumps({"app": f"{PROJECT}/site.py:app", "disable_store": True}),
        "LANGGRAPH_THREAD_TTL": json.dumps({"default_ttl": 60}),
    }
    with serving(tmp_path / "none.json", {**variables, **sections}) as server:
        assert _runs(server.url) == "hello"
        assert httpx.get(f"{server.url}/hello", timeout=30).status_code == 200
        assert (
            httpx.post(f"{server.url}/store/items/search", json={}, timeout=30).status_code == 404
        )
        thread = httpx.post(f"{server.url}/threads", json={}, timeout=30).json()
        kept = httpx.get(
            f"{server.url}/threads/{thread['thread_id']}?include=ttl", timeout=30
        ).json()

    assert kept["ttl"]["ttl_minutes"] == 60
