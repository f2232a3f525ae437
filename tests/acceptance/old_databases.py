"""Databases as the old projects left them: by their own schemas, with what was found in them."""

import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import OperationalError

#: By their models, as SQLAlchemy creates them in SQLite.
_CONVERSATION = """
CREATE TABLE conversation (
    id VARCHAR(32) NOT NULL PRIMARY KEY, name VARCHAR(50), chat_type VARCHAR(50),
    create_time DATETIME
);
"""
_MESSAGE = """
CREATE TABLE message (
    id VARCHAR(32) NOT NULL PRIMARY KEY, conversation_id VARCHAR(32), chat_type VARCHAR(50),
    "query" VARCHAR(4096), response VARCHAR(4096), meta_data JSON, feedback_score INTEGER,
    feedback_reason VARCHAR(255), create_time DATETIME
);
CREATE INDEX ix_message_conversation_id ON message (conversation_id);
"""
_EVENT = """
CREATE TABLE human_message_event (
    id INTEGER NOT NULL PRIMARY KEY, call_id VARCHAR(100), conversation_id VARCHAR(32),
    function_name VARCHAR(50), kwargs VARCHAR(4096), requested VARCHAR(50), comment VARCHAR(4096),
    action VARCHAR(50), create_time DATETIME
);
"""
_FUFAN = """
CREATE TABLE user (
    id CHAR(36) NOT NULL PRIMARY KEY, username VARCHAR(255) UNIQUE, password_hash VARCHAR(255)
);
CREATE TABLE conversation (
    id CHAR(36) NOT NULL PRIMARY KEY, user_id CHAR(36) REFERENCES user (id), name VARCHAR(50),
    chat_type VARCHAR(50), create_time DATETIME
);
CREATE TABLE message (
    id CHAR(36) NOT NULL PRIMARY KEY, conversation_id CHAR(36) REFERENCES conversation (id),
    chat_type VARCHAR(50), "query" VARCHAR(4096), response VARCHAR(4096), meta_data JSON,
    feedback_score INTEGER, feedback_reason VARCHAR(255), create_time DATETIME
);
"""
#: bcrypt of "analytical", as passlib writes it.
PASSWORD, HASH = "analytical", "$2b$04$vmlv7DCHAFM71BfUzZ41ee76ijzvJyo7h5QUNZx9k3Q5UxbU6EhpS"

ONE, TWO = "0f" * 16, "1e" * 16
FUFAN_ONE = "0c1d2e3f-0000-4000-8000-000000000001"
FUFAN_EMPTY = "0c1d2e3f-0000-4000-8000-000000000002"
ADA = "aaaaaaaa-0000-4000-8000-000000000001"
#: What LangChain's `dumps` has made of the steps of an agent; nobody may load it.
STEPS = '[{"lc": 1, "type": "constructor", "id": ["os", "system"], "kwargs": {}}]'

Turn = tuple[str, str, str, str, str, str, int, str, str]


def _turn(
    id_: str, of: str, kind: str, query: str, response: str, at: str, **more: str | int
) -> Turn:
    return (
        id_, of, kind, query, response, str(more.get("meta", "{}")), int(more.get("score", -1)),
        str(more.get("reason", "")), f"2024-03-10 {at}",
    )  # fmt: skip


def _write(
    path: Path, schema: str, turns: list[Turn], *more: tuple[str, list[tuple[str, ...]]]
) -> str:
    with sqlite3.connect(path) as connection:
        connection.executescript(schema)
        for statement, rows in more:
            connection.executemany(statement, rows)
        connection.executemany(f"INSERT INTO message VALUES ({','.join('?' * 9)})", turns)
    connection.close()
    return f"sqlite:///{path}"


def chatchat_02(path: Path) -> str:
    """0.2.10: no row of a conversation, answers, and turns of no conversation."""
    return _write(path, _CONVERSATION + _MESSAGE, [
        # Of one second, in the order in which they were inserted.
        _turn("b" * 32, ONE, "llm_chat", "first", "1st", "08:00:00", score=80, reason="good"),
        _turn("a" * 32, ONE, "llm_chat", "second", "2nd", "08:00:00"),
        _turn("c" * 32, TWO, "llm_chat", "长" * 4096, "答" * 4096, "08:00:01"),
        _turn("d" * 32, "", "llm_chat", "nowhere", "lost", "09:00:00"),
    ])  # fmt: skip


def chatchat_031(path: Path) -> str:
    """0.3.1: the answers were never stored."""
    return _write(path, _CONVERSATION + _MESSAGE, [
        _turn("a" * 32, ONE, "llm_chat", "anybody?", "", "08:00:00"),
        _turn("b" * 32, ONE, "agent_chat", "hello?", "", "08:01:00"),
    ])  # fmt: skip


def chatchat_master(path: Path) -> str:
    """Between 0.3.1 and its end: each turn is there twice, once without its answer."""
    return _write(path, _CONVERSATION + _MESSAGE + _EVENT, [
        _turn("a" * 32, ONE, "agent_chat", "twice", "", "08:00:00"),
        _turn("b" * 32, ONE, "llm_chat", "twice", "once", "08:00:01",
              meta=f'{{"intermediate_steps": {_quoted(STEPS)}}}'),
        _turn("c" * 32, ONE, "agent_chat", "unanswered", "", "08:00:02", meta="no JSON {"),
    ])  # fmt: skip


def fufan(path: Path, *, later: bool = False) -> str:
    """fufan-chat-api: users, conversations, and turns of several modes in one."""
    turns = [
        _turn("m1", FUFAN_ONE, "general_chat", "你好", "您好", "08:00:00"),
        _turn("m2", FUFAN_ONE, "knowledge_base_chat", "什么是LangGraph", "一个框架。", "08:01:00"),
    ]
    if later:
        turns.append(_turn("m3", FUFAN_ONE, "general_chat", "再见", "拜拜", "09:00:00"))
    return _write(
        path, _FUFAN, turns,
        ("INSERT INTO user VALUES (?, ?, ?)", [(ADA, "ada", HASH)]),
        ("INSERT INTO conversation VALUES (?, ?, ?, ?, ?)", [
            (FUFAN_ONE, ADA, "新对话", "general_chat", "2024-03-10 07:59:00"),
            (FUFAN_EMPTY, ADA, "Empty", "chat_with_search", "2024-03-11 00:00:00"),
        ]),
    )  # fmt: skip


@contextmanager
def mariadb(directory: Path, port: int) -> Iterator[str]:
    """The URL of a MariaDB in which there is nothing yet, for the length of the block."""
    about = [f"--datadir={directory}/data", "--user=root"]
    subprocess.run(
        ["mariadb-install-db", "--no-defaults", *about], check=True, capture_output=True, timeout=60
    )
    server = subprocess.Popen(
        ["mariadbd", "--no-defaults", *about, f"--port={port}", "--bind-address=127.0.0.1",
         f"--socket={directory}/socket", "--skip-grant-tables"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    url = f"mysql+pymysql://root@127.0.0.1:{port}"
    try:
        _wait_for(create_engine(f"{url}/mysql"))
        yield url
    finally:
        server.terminate()
        server.wait(60)


def _wait_for(engine: Engine) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            with engine.connect():
                return
        except OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def fufan_in_mariadb(url: str, path: Path) -> str:
    """What `fufan` has made, where fufan's people have it."""
    fufan(path)
    with create_engine(f"{url}/mysql").connect() as connection:
        connection.exec_driver_sql("CREATE DATABASE fufan CHARACTER SET utf8mb4")
    with sqlite3.connect(path) as source, create_engine(f"{url}/fufan").begin() as target:
        for statement in _FUFAN.replace('"', "`").split(";")[:-1]:
            target.exec_driver_sql(statement)
        for table in ("user", "conversation", "message"):
            rows = source.execute(f"SELECT * FROM {table}").fetchall()
            marks = ",".join(["%s"] * len(rows[0]))
            target.exec_driver_sql(f"INSERT INTO {table} VALUES ({marks})", rows)
    source.close()
    # As the project has it, whose driver is asynchronous.
    return f"{url}/fufan".replace("pymysql", "asyncmy")


def _quoted(text: str) -> str:
    escaped = text.replace('"', '\\"')
    return f'"{escaped}"'
