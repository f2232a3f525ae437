import json
import logging
from typing import Any

import pytest
import structlog

from api.observability import logs


def written(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    output = capsys.readouterr()
    assert output.out == ""
    return [json.loads(line) for line in output.err.splitlines()]


def test_json_holds_one_object_a_line_for_both_kinds_of_loggers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure(level="info", json=True)
    structlog.get_logger("api.test").info("run finished", run_id="7f")
    logging.getLogger("library.test").warning("port %d", 2024)
    logging.getLogger("api.test").debug("too fine")
    lines = {line["logger"]: line for line in written(capsys)}
    ours, theirs = lines["api.test"], lines["library.test"]
    assert (ours["event"], ours["run_id"], ours["level"]) == ("run finished", "7f", "info")
    assert (theirs["event"], theirs["logger"]) == ("port 2024", "library.test")
    assert ours["timestamp"].endswith("Z")


def test_secrets_are_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(level="info", json=True)
    structlog.get_logger("api.test").info("up", url="redis://:hunter2@h/0", Authorization="hunter2")
    logging.getLogger("x").info("connecting to postgresql://ada:hunter2@db/x")
    try:
        int("redis://:hunter2@h/0")
    except ValueError:
        structlog.get_logger("api.test").exception("down")
        logging.getLogger("x").exception("down")
    lines = written(capsys)
    assert len(lines) == 4
    assert "hunter2" not in json.dumps(lines)


def test_an_exception_is_written_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(level="info", json=True)
    try:
        int("seven")
    except ValueError:
        structlog.get_logger("api.test").exception("run failed")
    (event,) = written(capsys)
    assert "ValueError: invalid literal" in event["exception"]


def test_text_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(level="warning", json=False)
    structlog.get_logger("api.test").warning("queue is full", length=3)
    text = capsys.readouterr().err
    assert "queue is full" in text
    assert "length=3" in text
