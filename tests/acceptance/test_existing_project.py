"""The conversations of the old projects come along, once (cases 6 and 12)."""

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import httpx
import pytest
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient

from api.bootstrap import open_services
from api.console.chatchat import Plan, run as import_all
from api.processes.embedded import Servers
from api.settings import Settings
from store.errors import Error
from tests.acceptance import old_databases as old
from tests.acceptance.conftest import Sql
from tests.acceptance.process import (
    ROOT,
    ServerProcess,
    command,
    environment,
    free_port,
    serving,
)
from tests.acceptance.talk import contents, says
from threadwell import repository
from threadwell.connection import default, use
from threadwell.standalone import open_database

Importing = Callable[..., Awaitable[dict[str, Any]]]


@pytest.fixture
async def importing(
    database: str, servers: Servers, project: Path, server: ServerProcess
) -> AsyncIterator[Importing]:
    """What `threadwell import chatchat` does, beside running servers; its report."""
    async with open_services(
        Settings(config=project, slots=1), database_url=database, redis_url=servers.redis_url
    ) as services:

        async def run(url: str, **more: Any) -> dict[str, Any]:
            options = {"dialect": "chatchat", "zone": ZoneInfo("UTC"), "assistant": "chat"}
            plan = Plan(url=url, **{**options, **more})
            return asdict(await import_all(services, plan))

        yield run


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
    importing: Importing,
    tmp_path: Path,
    http: httpx.AsyncClient,
    server: ServerProcess,
    sql: Sql,
) -> None:
    url = old.chatchat_02(tmp_path / "info.db")
    planned = await importing(url, dry_run=True)
    absent = await http.get(f"/api/sessions/{old.ONE}")
    first = await importing(url, user_id="ada", zone=ZoneInfo("Asia/Shanghai"))
    second = await importing(url)

    assert counts(planned) == counts(first) == (3, 0, 0, 0, 8)
    assert sql(
        "SELECT feedback_score, feedback_reason FROM message_pair WHERE conversation_id = %s"
        " ORDER BY seq",
        old.ONE,
    ) == [(80, "good"), (-1, "")]
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
    assert counts(await importing(url)) == (0, 0, 3, 0, 0)


async def test_chatchat_03_comes_along_with_what_it_has(
    importing: Importing, tmp_path: Path, http: httpx.AsyncClient
) -> None:
    url = old.chatchat_031(tmp_path / "info.db")

    reports = [await importing(url) for _ in range(2)]

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

    reports = [await importing(url) for _ in range(2)]

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
    urls = [old.fufan(tmp_path / f"{later}.db", later=later) for later in (False, True)]
    first, second, third, fourth = [
        await importing(url, dialect="fufan") for url in urls for _ in range(2)
    ]

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


@pytest.mark.skipif(shutil.which("mariadbd") is None, reason="no MariaDB is installed")
async def test_fufan_comes_along_from_mysql_too(
    importing: Importing, tmp_path: Path, sql: Sql
) -> None:
    server = old.mariadb(tmp_path, free_port())
    url = await asyncio.to_thread(server.__enter__)
    try:
        url = await asyncio.to_thread(old.fufan_in_mariadb, url, tmp_path / "fufan.db")
        zone = ZoneInfo("Asia/Shanghai")
        reports = [await importing(url, dialect="fufan", zone=zone) for _ in range(2)]
    finally:
        await asyncio.to_thread(server.__exit__, None, None, None)

    assert [counts(report) for report in reports] == [(2, 0, 0, 0, 4), (0, 0, 2, 0, 0)]
    pairs = sql(
        "SELECT id, query, response, (create_time AT TIME ZONE 'UTC')::text FROM message_pair"
        " WHERE conversation_id = %s ORDER BY seq",
        old.FUFAN_ONE,
    )
    assert [pair[:3] for pair in pairs] == [
        ("m1", "你好", "您好"), ("m2", "什么是LangGraph", "一个框架。"),
    ]  # fmt: skip
    assert pairs[0][3].startswith("2024-03-10 00:00:00"), "08:00 in Shanghai"


async def test_what_cannot_be_read_is_said_without_a_secret(
    importing: Importing, tmp_path: Path
) -> None:
    (tmp_path / "other.db").write_bytes(b"")
    for url, told in (
        (f"sqlite:///{tmp_path}/missing.db", "There is no file"),
        (f"sqlite:///{tmp_path}/other.db", "no table `message`"),
        ("postgresql://ada:secret@127.0.0.1/x", "must begin with sqlite:// or mysql://"),
        ("mysql://ada:secret@127.0.0.1:1/x", "cannot be read"),
    ):
        with pytest.raises(Error, match=told) as refused:
            await importing(url)
        assert "secret" not in str(refused.value)
    assert not (tmp_path / "missing.db").exists()


async def test_a_session_that_cannot_be_written_is_reported_and_the_others_are(
    importing: Importing, tmp_path: Path
) -> None:
    report = await importing(old.fufan(tmp_path / "a.db"), dialect="fufan", assistant="nobody")

    assert counts(report) == (0, 0, 0, 2, 0)
    assert [error["code"] for error in report["errors"]] == ["invalid_input"] * 2


def test_the_command_reports_in_json(
    database: str, project: Path, tmp_path: Path, server: ServerProcess
) -> None:
    url = old.chatchat_031(tmp_path / "info.db")

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        arguments = ["import", "chatchat", "--url", url, "--config", str(project), *options]
        return subprocess.run(
            command(*arguments),
            cwd=ROOT,
            env=environment({"DATABASE_URL": database}),
            capture_output=True,
            text=True,
            timeout=100,
        )

    done, nowhere = run("--assistant", "chat", "--dry-run"), run("--tz", "Nowhere/Else")

    assert done.returncode == 0, done.stderr
    assert counts(json.loads(done.stdout)) == (1, 0, 0, 0, 2)
    assert (nowhere.returncode, "no time zone" in nowhere.stderr) == (1, True)


@pytest.fixture
async def connected(database: str, project: Path, servers: Servers) -> AsyncIterator[None]:
    """The functions' connection is to the servers' database."""
    opened = partial(open_database, database, config=project, redis_url=servers.redis_url)
    before = default()
    with await asyncio.to_thread(opened) as connection:
        use(connection)
        yield
        use(before)


@pytest.mark.usefixtures("connected")
async def test_the_old_repositories_functions_work_on_sessions(client: LangGraphClient) -> None:
    id_ = await repository.add_conversation_to_db("llm_chat", "Old", user_id="ada")
    again = await repository.add_conversation_to_db("llm_chat", conversation_id=id_)
    first = await repository.add_message_to_db(
        query="one", conversation_id=id_, prompt_name="llm_chat", response="1", message_id="first"
    )
    late = await repository.add_message_to_db(query="two", conversation_id=id_, chat_type="other")
    unanswered = await repository.filter_message(id_)
    await repository.update_message(late, "2", {"docs": ["d"]})
    await repository.update_message(first, response="uno")
    await repository.feedback_message_to_db(first, 90, "good")
    answered = await repository.filter_message(id_)
    of_mode = await repository.filter_message(id_, "other", limit=1)
    found = await repository.get_message_by_id(first)

    assert (again, first) == (id_, "first")
    assert [pair["response"] for pair in unanswered] == ["1"]
    assert [pair["response"] for pair in answered] == ["2", "uno"]
    assert [(pair["id"], pair["meta_data"]) for pair in of_mode] == [(late, {"docs": ["d"]})]
    assert found is not None
    assert (found["query"], found["feedback_score"], found["feedback_reason"]) == (
        "one",
        90,
        "good",
    )
    assert await repository.get_message_by_id("nothing") is None
    assert await repository.update_message("nothing", "x") is None
    assert await repository.filter_message(str(uuid4())) == []
    ran = await client.runs.wait(id_, "chat", input=says("three"))
    assert contents(ran) == ["one", "uno", "two", "2", "three", "(5) three"]


@pytest.mark.usefixtures("connected")
async def test_an_answer_is_of_the_question_that_it_names(http: httpx.AsyncClient) -> None:
    id_ = str(uuid4())
    # An id may have anything in it that URLs have a meaning for.
    one, two = [
        await repository.add_message_to_db(
            query=query, conversation_id=id_, message_id=f"{name}{id_}"
        )
        for query, name in (("one", "a/b?c#"), ("two", "b"))
    ]
    await repository.update_message(one, "1")
    alone = await repository.filter_message(id_)
    await repository.update_message(two, "2")
    await repository.feedback_message_to_db(one, 90)
    found = await repository.get_message_by_id(one)
    said = {"messages": [{"role": "user", "content": "three", "id": f"q{id_}"}]}
    await http.post(f"/api/sessions/{id_}/context", json=said)
    await repository.update_message(f"q{id_}", "3")

    assert [(pair["id"], pair["query"], pair["response"]) for pair in alone] == [(one, "one", "1")]
    assert found is not None
    assert (found["query"], found["response"], found["feedback_score"]) == ("one", "1", 90)
    assert [(pair["query"], pair["response"]) for pair in await repository.filter_message(id_)] == [
        ("three", "3"),
        ("two", "2"),
        ("one", "1"),
    ]
    kept = [row["content"] for row in await rows(http, id_)]
    assert kept == ["one", "two", "1", "2", "three", "3"]


@pytest.mark.usefixtures("connected")
async def test_an_item_is_the_message_of_its_whole_id(http: httpx.AsyncClient) -> None:
    id_ = str(uuid4())
    for query, name in (("one", "a"), ("two", "a/b")):
        await repository.add_message_to_db(
            query=query, conversation_id=id_, response=query, message_id=f"{id_}{name}"
        )
    items = f"/v1/conversations/{id_}/items"

    gone = [await http.delete(f"{items}/{id_}a%2F{name}") for name in ("b", "c")]

    assert [answer.status_code for answer in gone] == [200, 404]
    assert [row["content"] for row in await rows(http, id_)] == ["one", "one", "two"]
