"""The conversations of the old projects come along, once (cases 6 and 12)."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph_sdk import get_client

from tests.acceptance import old_databases as old
from tests.acceptance.conftest import Sql
from tests.acceptance.process import ROOT, ServerProcess, command, environment, serving
from tests.acceptance.talk import contents, says

Importing = Callable[..., dict[str, Any]]


@pytest.fixture
def importing(database: str, project: Path, server: ServerProcess) -> Importing:
    """`threadwell import chatchat` beside running servers; its report."""

    def run(url: str, *options: str, status: int = 0) -> dict[str, Any]:
        arguments = ["import", "chatchat", "--url", url, "--config", str(project), *options]
        done = subprocess.run(
            command(*arguments),
            cwd=ROOT,
            env=environment({"DATABASE_URL": database}),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == status, done.stderr
        return dict(json.loads(done.stdout)) if done.stdout else {"said": done.stderr}

    return run


def counts(report: dict[str, Any]) -> tuple[int, ...]:
    return tuple(report[key] for key in ("created", "updated", "skipped", "failed", "messages"))


async def rows(http: httpx.AsyncClient, session_id: str) -> list[dict[str, Any]]:
    answer = await http.get(f"/api/sessions/{session_id}/messages")
    assert answer.status_code == 200, answer.text
    return list(answer.json()["data"])


@pytest.fixture(autouse=True)
def clean(sql: Sql) -> None:
    """The fixtures' ids are fixed: a test begins without what another one imported."""
    sql("DELETE FROM thread WHERE metadata ? 'source' RETURNING 1")
    sql("DELETE FROM checkpoints WHERE thread_id NOT IN (SELECT thread_id FROM thread) RETURNING 1")
    sql(
        "DELETE FROM checkpoint_blobs WHERE thread_id NOT IN (SELECT thread_id FROM thread)"
        " RETURNING 1"
    )
    sql(
        "DELETE FROM checkpoint_writes WHERE thread_id NOT IN (SELECT thread_id FROM thread)"
        " RETURNING 1"
    )


async def test_chatchat_02_comes_along_once(
    importing: Importing, tmp_path: Path, http: httpx.AsyncClient, server: ServerProcess
) -> None:
    url = old.chatchat_02(tmp_path / "info.db")
    planned = importing(url, "--dry-run", "--assistant", "chat")
    absent = await http.get(f"/api/sessions/{old.ONE}")
    first = importing(url, "--assistant", "chat", "--user-id", "ada", "--tz", "Asia/Shanghai")
    second = importing(url, "--assistant", "chat")

    assert counts(planned) == counts(first) == (3, 0, 0, 0, 8)
    assert absent.status_code == 404
    assert counts(second) == (0, 0, 3, 0, 0)
    found = await rows(http, old.ONE)
    assert [(row["role"], row["content"]) for row in found] == [
        ("user", "first"), ("assistant", "1st"), ("user", "second"), ("assistant", "2nd"),
    ]  # fmt: skip
    assert [found[1]["id"], found[3]["id"]] == ["b" * 32, "a" * 32], "old links keep working"
    assert found[0]["create_time"].startswith("2024-03-10T00:00:00"), "08:00 in Shanghai"
    long = await rows(http, old.TWO)
    assert [len(row["content"]) for row in long] == [4096, 4096]
    session = (await http.get(f"/api/sessions/{old.ONE}")).json()
    assert (session["name"], session["user_id"]) == ("first", "ada")
    async with get_client(url=server.url) as client:
        state = await client.threads.get_state(old.ONE)
        ran = await client.runs.wait(old.ONE, "chat", input=says("third"))
    assert state["next"] == []
    assert contents(ran)[-2:] == ["third", "(5) third"]
    assert counts(importing(url, "--assistant", "chat")) == (0, 0, 3, 0, 0)


async def test_chatchat_03_comes_along_with_what_it_has(
    importing: Importing, tmp_path: Path, http: httpx.AsyncClient
) -> None:
    url = old.chatchat_031(tmp_path / "info.db")

    reports = [importing(url, "--assistant", "chat") for _ in range(2)]

    assert [counts(report) for report in reports] == [(1, 0, 0, 0, 2), (0, 0, 1, 0, 0)]
    found = await rows(http, old.ONE)
    assert [(row["role"], row["content"]) for row in found] == [
        ("user", "anybody?"), ("user", "hello?"),
    ]  # fmt: skip
    assert {row["meta_data"]["additional_kwargs"]["status"] for row in found} == {"incomplete"}


async def test_a_turn_that_is_there_twice_comes_once(
    importing: Importing, tmp_path: Path, http: httpx.AsyncClient
) -> None:
    url = old.chatchat_master(tmp_path / "info.db")

    reports = [importing(url, "--assistant", "chat") for _ in range(2)]

    assert [counts(report) for report in reports] == [(1, 0, 0, 0, 3), (0, 0, 1, 0, 0)]
    found = await rows(http, old.ONE)
    assert [row["content"] for row in found] == ["twice", "once", "unanswered"]
    kept = found[1]["meta_data"]["additional_kwargs"]["meta_data"]
    assert kept == {"intermediate_steps": old.STEPS}, "as it was, and never loaded"


async def test_fufan_comes_along_with_its_users_and_grows(
    importing: Importing,
    tmp_path: Path,
    project: Path,
    database: str,
    sql: Sql,
    http: httpx.AsyncClient,
) -> None:
    options = ("--dialect", "fufan", "--assistant", "chat")
    url = old.fufan(tmp_path / "one.db")
    first, second = importing(url, *options), importing(url, *options)
    longer = old.fufan(tmp_path / "two.db", later=True)
    third, fourth = importing(longer, *options), importing(longer, *options)

    assert [counts(report) for report in (first, second, third, fourth)] == [
        (2, 0, 0, 0, 4), (0, 0, 2, 0, 0), (0, 1, 1, 0, 2), (0, 0, 2, 0, 0),
    ]  # fmt: skip
    assert [report["users"] for report in (first, second)] == [1, 0]
    pairs = sql(
        "SELECT id, query, response, chat_type FROM message_pair WHERE conversation_id = %s"
        " ORDER BY create_time",
        old.FUFAN_ONE,
    )
    assert pairs[1] == ("m2", "什么是LangGraph", "一个框架。", "knowledge_base_chat")
    assert [pair[0] for pair in pairs] == ["m1", "m2", "m3"]
    variables = {"DATABASE_URL": database, "REDIS_URL": "", "THREADWELL_COMPAT": "fufan"}
    with serving(project, variables) as compat:
        async with httpx.AsyncClient(base_url=compat.url, timeout=30) as front:
            for _ in range(2):  # the second time by a hash of ours
                person = {"username": "ada", "password": old.PASSWORD}
                login = (await front.post("/api/users/login", json=person)).json()
            listed = await front.get(
                f"/api/users/{login['id']}/conversations", params={"chat_types": "general_chat"}
            )
            shown = await front.get(f"/api/conversations/{old.FUFAN_ONE}/messages")
    assert login["id"] == old.ADA
    assert [row["name"] for row in listed.json()["data"]] == ["你好"]
    assert [row["id"] for row in shown.json()["data"]] == ["m1", "m2", "m3"]
    assert sql('SELECT left(password_hash, 7) FROM "user"') == [("scrypt$",)]


def test_what_cannot_be_read_is_said_without_a_secret(importing: Importing, tmp_path: Path) -> None:
    (tmp_path / "other.db").write_bytes(b"")
    for url, told in (
        (f"sqlite:///{tmp_path}/missing.db", "There is no file"),
        (f"sqlite:///{tmp_path}/other.db", "no table `message`"),
        ("postgresql://ada:secret@127.0.0.1/x", "must begin with sqlite:// or mysql://"),
        ("mysql://ada:secret@127.0.0.1:1/x", "cannot be read"),
    ):
        said = importing(url, status=1)["said"]

        assert told in said, url
        assert "secret" not in said
    zone = importing(old.chatchat_02(tmp_path / "a.db"), "--tz", "Nowhere/Else", status=1)
    assert "no time zone" in zone["said"]
    assert not (tmp_path / "missing.db").exists()
