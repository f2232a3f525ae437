"""Old databases whose collations think ids equal, or in another order, that Python does not."""

import sqlite3
from pathlib import Path

from store.chatchat import opened

MESSAGE = """
CREATE TABLE message (
    id VARCHAR(32) PRIMARY KEY, conversation_id VARCHAR(32) COLLATE NOCASE, chat_type VARCHAR(50),
    "query" TEXT, response TEXT, create_time DATETIME
);
CREATE TABLE conversation (
    id VARCHAR(32) COLLATE NOCASE PRIMARY KEY, name VARCHAR(50), create_time DATETIME
);
"""


def test_no_conversation_is_skipped_whatever_its_clients_call_it(tmp_path: Path) -> None:
    spoken = [f"{letter}{n:03}" for letter in "_Aab" for n in range(400)]
    silent = [f"{letter}{n:03}" for letter in "Z_" for n in range(400, 700)]
    with sqlite3.connect(tmp_path / "info.db") as database:
        database.executescript(MESSAGE)
        database.executemany(
            "INSERT INTO message VALUES (?, ?, 'chat', 'hello', '', '2024-03-10 00:00:00')",
            [(f"m{number}", id_) for number, id_ in enumerate(spoken)],
        )
        database.executemany(
            "INSERT INTO conversation VALUES (?, 'a', NULL)",
            [(id_,) for id_ in silent],
        )
    database.close()

    with opened(f"sqlite:///{tmp_path}/info.db") as old:
        found = [(found.id, len(found.messages)) for found in old.conversations()]

    assert sorted(found) == sorted([*((id_, 1) for id_ in spoken), *((id_, 0) for id_ in silent)])
