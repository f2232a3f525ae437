"""The console script: help, and flag over environment over default."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from api import __main__
from api.console.table import COMMANDS
from api.processes.embedded import EmbeddedServerError
from api.settings import Settings
from store.errors import UnavailableError


def run_instead(
    monkeypatch: pytest.MonkeyPatch, command: str, function: Callable[..., None]
) -> None:
    monkeypatch.setitem(COMMANDS, command, replace(COMMANDS[command], run=function))


class Recorder:
    """Stands in for the commands, which would serve for ever."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.settings = Settings()
        self.options: dict[str, Any] = {}
        for name in COMMANDS:
            run_instead(monkeypatch, name, self.record)
        monkeypatch.setattr("api.observability.logs.configure", lambda **_: None)

    def record(self, settings: Settings, **options: Any) -> None:
        self.settings = settings
        self.options = options


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    monkeypatch.delenv("THREADWELL_PORT", raising=False)
    monkeypatch.delenv("N_JOBS_PER_WORKER", raising=False)
    return Recorder(monkeypatch)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_with_the_defaults(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        __main__.main([command, "--help"])
    assert exit_.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "--data-dir DIR" in shown
    assert "Default: .threadwell ($THREADWELL_DATA_DIR)" in shown


def test_help_of_serve_tells_units(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        __main__.main(["serve", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "--port PORT TCP port to listen on. Default: 2024 ($THREADWELL_PORT)" in shown
    assert (
        "--slots SLOTS Concurrent runs of each process. Default: 100 ($N_JOBS_PER_WORKER)" in shown
    )


def test_without_flag_or_environment_the_default_counts(recorder: Recorder) -> None:
    assert __main__.main(["serve"]) == 0
    assert recorder.settings.port == 2024


def test_the_environment_wins_over_the_default(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THREADWELL_PORT", "3001")
    __main__.main(["serve"])
    assert recorder.settings.port == 3001


def test_a_flag_wins_over_the_environment(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THREADWELL_PORT", "3001")
    __main__.main(["serve", "--port", "3002", "--data-dir", "elsewhere", "--config", "a/b.json"])
    assert recorder.settings.port == 3002
    assert recorder.settings.data_dir == Path("elsewhere")
    assert recorder.settings.config == Path("a/b.json")


@pytest.mark.parametrize("rebuild", [True, False])
def test_project_rebuilds_only_when_told_to(recorder: Recorder, rebuild: bool) -> None:
    __main__.main(["project", *(["--rebuild"] if rebuild else [])])
    assert recorder.options == {"rebuild": rebuild}


def test_check_repairs_only_when_told_to(recorder: Recorder) -> None:
    __main__.main(["check"])
    assert recorder.options == {"repair": False, "json": False}
    __main__.main(["check", "--repair", "--json"])
    assert recorder.options == {"repair": True, "json": True}


def test_what_is_in_the_clear_is_encrypted_late_only_when_told_to(recorder: Recorder) -> None:
    __main__.main(["encrypt"])
    assert recorder.options == {"accept_clear": False}
    __main__.main(["encrypt", "--accept-clear"])
    assert recorder.options == {"accept_clear": True}


def test_keys_are_made_by_what_is_said(recorder: Recorder) -> None:
    __main__.main(
        ["keys", "create", "--owner", "ada", "--role", "reader", "--permission", "store:*"]
    )
    assert recorder.options == {
        "action": "create", "key_id": None, "owner": "ada", "name": "", "role": ["reader"],
        "permission": ["store:*"], "expires": "90d", "json": False,
    }  # fmt: skip
    __main__.main(["keys", "revoke", "tw_x"])
    assert (recorder.options["action"], recorder.options["key_id"]) == ("revoke", "tw_x")


def test_times_of_the_audit_log_are_utc_unless_they_say(recorder: Recorder) -> None:
    __main__.main(["audit", "--act", "share.created", "--since", "2026-11-26"])
    assert recorder.options["act"] == "share.created"
    assert recorder.options["since"] == datetime(2026, 11, 26, tzinfo=UTC)


def test_a_wrong_setting_is_told_in_words(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("N_JOBS_PER_WORKER", "many")
    assert __main__.main(["worker"]) == 2
    said = "threadwell: N_JOBS_PER_WORKER must be a whole number; it is 'many'\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("error", [EmbeddedServerError, UnavailableError])
def test_a_failure_is_told_in_words(
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: type[Exception],
) -> None:
    def fail(_: Settings) -> None:
        raise error("the server went down")

    run_instead(monkeypatch, "migrate", fail)
    assert __main__.main(["migrate"]) == 1
    assert capsys.readouterr().err == "threadwell: the server went down\n"


def test_a_command_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        __main__.main([])
    assert exit_.value.code == 2
    assert "COMMAND" in capsys.readouterr().err
