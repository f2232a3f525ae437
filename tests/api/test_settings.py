from pathlib import Path

import pytest
from pydantic import ValidationError

from api.__main__ import main
from api.settings import Settings, environment_names, without_password

PASSWORD = "hunter2"
URL = f"postgresql://ada:{PASSWORD}@db.example:5432/threadwell?sslmode=require"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in Settings.model_fields:
        for name in environment_names(field):
            monkeypatch.delenv(name, raising=False)


def test_defaults_are_those_of_a_laptop() -> None:
    settings = Settings()
    assert (settings.host, settings.port) == ("127.0.0.1", 2024)
    assert settings.data_dir == Path(".threadwell")
    assert (settings.database_url, settings.redis_url) == (None, None)
    assert settings.request_body_max_bytes == 314_572_800


@pytest.mark.parametrize("name", ["DATABASE_URL", "DATABASE_URI", "POSTGRES_URI"])
def test_the_database_goes_by_the_names_of_the_official_server_too(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, URL)
    assert Settings().database_url == URL


def test_the_documented_name_wins_over_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URI", "redis://other")
    monkeypatch.setenv("REDIS_URL", "redis://this")
    assert Settings().redis_url == "redis://this"


def test_an_empty_redis_url_means_none_and_an_empty_database_url_means_unset(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REDIS_URL", "")
    monkeypatch.setenv("DATABASE_URL", "")
    assert Settings().redis_url == ""
    assert Settings().database_url is None


def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORS_ALLOW_ORIGINS", "https://a.example, https://b.example")
    assert Settings().cors_allow_origins == ("https://a.example", "https://b.example")


def test_log_level_may_be_written_in_capitals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_LEVEL", "WARNING")
    assert Settings().log_level == "warning"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("THREADWELL_PORT", "65536"),
        ("N_JOBS_PER_WORKER", "0"),
        ("BG_JOB_TIMEOUT_SECS", "-1"),
        ("LOG_LEVEL", "loud"),
        ("LEASE_SECONDS", "14"),
        ("DATABASE_POOL_MAX_SIZE", "1"),
        ("REDIS_URL", "http://127.0.0.1"),
        ("THREADWELL_WORKERS", "-1"),
        ("THREADWELL_AUTH", "none,keys"),
        ("THREADWELL_AUTH", "passwords"),
        ("THREADWELL_JWT_ISSUER", "https://issuer.example"),
        ("THREADWELL_JWT_ALGORITHMS", "HS256"),
        ("THREADWELL_JWT_ALGORITHMS", ""),
        ("THREADWELL_JWT_DEFAULT_ROLE", "root"),
    ],
)
def test_a_wrong_value_is_refused_with_the_name_of_its_setting(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError, match=name):
        Settings()


@pytest.mark.parametrize("workers", ["0", "2"])
def test_several_processes_are_refused_without_redis(
    monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    monkeypatch.setenv("THREADWELL_WORKERS", workers)
    assert Settings().workers == int(workers)
    monkeypatch.setenv("REDIS_URL", "")
    with pytest.raises(ValidationError, match="needs Redis"):
        Settings()


def test_a_password_is_in_no_repr_and_in_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", URL)
    assert PASSWORD not in repr(Settings())
    monkeypatch.setenv("DATABASE_URL", URL.replace("postgresql:", "mysql:"))
    with pytest.raises(ValidationError) as refused:
        Settings()
    assert PASSWORD not in str(refused.value)


@pytest.mark.parametrize(
    "password",
    [
        f"100%{PASSWORD}",
        f"{PASSWORD} x",
        f"[{PASSWORD}]",
        f"a@{PASSWORD}",
        f"{PASSWORD}/a",
        f"a/{PASSWORD}",
    ],
)
def test_a_url_whose_password_is_not_encoded_is_refused_without_a_part_of_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], password: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgresql://ada:{password}@127.0.0.1:1/threadwell")
    monkeypatch.setenv("DATABASE_POOL_TIMEOUT_SECONDS", "0.1")
    status = main(["migrate"])
    said = capsys.readouterr()

    # Brackets are libpq's to read: then there is nothing wrong but that nobody listens.
    assert (status, "percent-encoded" in said.err) == ((1, False) if "[" in password else (2, True))
    assert PASSWORD not in said.err + said.out


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (URL, "postgresql://ada:***@db.example:5432/threadwell?sslmode=require"),
        ("postgresql://ada:p@s/s@db/x", "postgresql://ada:***@db/x"),
        ("postgresql://db/x?user=ada&password=secret", "postgresql://db/x?user=ada&password=***"),
        ("redis://:secret@cache:6379/0", "redis://:***@cache:6379/0"),
        ("postgresql://threadwell@/threadwell?host=/tmp/run", None),
        ("unix:///tmp/valkey.sock", None),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str | None) -> None:
    assert without_password(url) == (shown or url)
