"""What a person with psql sees, and the commands for the database."""

import re
import subprocess
from pathlib import Path

import httpx
from langgraph_sdk.client import LangGraphClient

from tests.acceptance.conftest import Sql
from tests.acceptance.process import ROOT, command, environment
from tests.acceptance.talk import says


def threadwell(*arguments: str, database: str) -> str:
    """Run a console command; what it says."""
    done = subprocess.run(
        command(*arguments),
        cwd=ROOT,
        env=environment({"DATABASE_URL": database}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


async def test_messages_and_conversations_are_rows(http: httpx.AsyncClient, sql: Sql) -> None:
    created = (
        await http.post(
            "/api/sessions",
            json={"user_id": "ada", "name": "First", "chat_type": "c", "assistant_id": "chat"},
        )
    ).json()
    await http.post(f"/api/sessions/{created['id']}/messages", json={"query": "你好"})

    rows = sql("SELECT role, content FROM message WHERE conversation_id = %s", created["id"])
    cursor = sql("SELECT * FROM conversation WHERE id = %s", created["id"])

    def columns(of: str) -> list[str]:
        found = sql(
            "SELECT column_name FROM information_schema.columns WHERE table_name = %s "
            "ORDER BY ordinal_position",
            of,
        )
        return [name for (name,) in found]

    assert rows == [("user", "你好"), ("assistant", "(1) 你好")]
    assert columns("conversation") == [
        "id",
        "user_id",
        "name",
        "chat_type",
        "status",
        "create_time",
        "update_time",
    ]
    assert cursor[0][:5] == (created["id"], "ada", "First", "c", "active")
    told = (ROOT / "docs/sessions.md").read_text().partition("## The message table")[2]
    named = re.findall(r"^\| (`\w.*?) \|", told, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", " ".join(named))) == set(columns("message"))


async def test_the_message_table_is_made_again_the_same_beside_a_running_server(
    client: LangGraphClient, sql: Sql, database: str, project: Path
) -> None:
    thread_id = (await client.threads.create())["thread_id"]
    first = await client.runs.wait(thread_id, "chat", input=says("one"))
    assert isinstance(first, dict)
    fork = await client.threads.get_state(thread_id)
    await client.runs.wait(thread_id, "chat", input=says("left behind"))
    edited = {"id": first["messages"][0]["id"], "role": "user", "content": "one, edited"}
    removed = {"id": first["messages"][1]["id"], "type": "remove", "content": ""}
    await client.threads.update_state(
        thread_id, {"messages": [edited, removed]}, checkpoint=fork["checkpoint"]
    )
    await client.runs.wait(thread_id, "chat", input=says("nul: \0"))
    before = sql("SELECT * FROM message ORDER BY conversation_id, seq")

    said = threadwell("project", "--rebuild", "--config", str(project), database=database)

    assert sql("SELECT * FROM message ORDER BY conversation_id, seq") == before
    assert "0 without a readable list" in said
    ours = (
        "SELECT content, in_context, on_branch FROM message WHERE conversation_id = %s ORDER BY seq"
    )
    assert sql(ours, thread_id) == [
        ("one, edited", True, True),
        ("(1) one", False, True),
        ("left behind", False, False),
        ("(3) left behind", False, False),
        ("nul: \ufffd", True, True),
        ("(2) nul: \ufffd", True, True),
    ]


def test_migrating_again_changes_nothing(sql: Sql, database: str) -> None:
    tables = "SELECT table_name, column_name FROM information_schema.columns ORDER BY 1, 2"
    before = sql(tables)

    said = [threadwell("migrate", database=database) for _ in range(2)]

    assert said == ["up to date\n"] * 2
    assert sql(tables) == before
