import ast
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from api.observability import logs
from api.settings import Settings

SOURCES = [
    path
    for layer in ("api", "graph", "store", "threadwell")
    for path in sorted((Path(__file__).parents[2] / layer).rglob("*.py"))
]
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}


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


def fail_on(what_was_said: str) -> None:
    """Log an exception, that was raised for another, in every way that there is."""
    ours, theirs = structlog.get_logger("api.test"), logging.getLogger("library.test")
    try:
        try:
            int(what_was_said)
        except ValueError as exc:
            raise KeyError(what_was_said) from exc
    except KeyError as exc:
        ours.exception("run failed")
        theirs.exception("run failed")
        # As LangGraph does before it tries a node again.
        theirs.info(f"Retrying task after {type(exc).__name__} {exc}", exc_info=exc)
        ours.warning("state cannot be read", error=exc)
        theirs.warning("state cannot be read", extra={"error": exc})


def test_without_their_texts_exceptions_are_kinds_and_places(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure(level="info", json=True, error_texts=False)
    fail_on("my diagnosis".upper())
    *failed, ours, theirs = lines = written(capsys)
    assert "MY DIAGNOSIS" not in json.dumps(lines)
    assert failed[2]["event"] == "Retrying task after KeyError …"
    for line in failed:
        assert "\nValueError\n" in line["exception"]
        assert line["exception"].endswith("\nKeyError")
        assert "in fail_on" in line["exception"]
    assert (ours["error"], theirs["error"]) == ("KeyError", "KeyError")


def test_with_their_texts_exceptions_say_what_they_say(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(level="info", json=True, error_texts=True)
    fail_on("my diagnosis".upper())
    *failed, ours, theirs = written(capsys)
    assert all(line["exception"].count("MY DIAGNOSIS") == 2 for line in failed)
    assert ours["error"] == theirs["error"] == "KeyError('MY DIAGNOSIS')"


@pytest.mark.parametrize(
    ("as_json", "asked", "expected"),
    [(True, None, False), (False, None, True), (True, True, True), (False, False, False)],
)
def test_error_texts_are_left_out_of_json_unless_they_are_asked_for(
    as_json: bool, asked: bool | None, expected: bool
) -> None:
    assert Settings(log_json=as_json, log_error_texts=asked).logs_error_texts is expected


def log_calls(tree: ast.AST) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id.strip("_") in ("log", "logger")
            and node.func.attr in LEVELS
        ):
            yield node


def test_no_line_of_ours_makes_a_text_of_an_exception() -> None:
    """An exception is given as it is (`error=exc`, `exc_info`): whether its text is written is a setting."""
    found, made = 0, []
    for path in SOURCES:
        for call in log_calls(ast.parse(path.read_text())):
            found += 1
            made += [
                f"{path}:{node.lineno}"
                for node in ast.walk(call)
                if isinstance(node, ast.JoinedStr)
                or (isinstance(node, ast.Call) and ast.unparse(node.func) in ("repr", "str"))
            ]
    assert found > 50
    assert made == []


def test_text_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(level="warning", json=False)
    structlog.get_logger("api.test").warning("queue is full", length=3)
    text = capsys.readouterr().err
    assert "queue is full" in text
    assert "length=3" in text
