import traceback
from pathlib import Path

import pytest
from pydantic import ValidationError

from api.__main__ import main
from api.settings import Settings, environment_names, without_password
from api.settings_reading import read_settings
from store.errors import InvalidInputError

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


#: What is said of a wrong value.
FAULTS = [
    ("THREADWELL_PORT", "x", "THREADWELL_PORT must be a whole number; it is 'x'"),
    ("THREADWELL_PORT", "65536", "THREADWELL_PORT must be at most 65535; it is '65536'"),
    ("N_JOBS_PER_WORKER", "0", "N_JOBS_PER_WORKER must be at least 1; it is '0'"),
    ("BG_JOB_TIMEOUT_SECS", "0", "BG_JOB_TIMEOUT_SECS must be more than 0; it is '0'"),
    ("WEBHOOK_RETRY_SECONDS", "1,b", "WEBHOOK_RETRY_SECONDS must be a number; it is 'b'"),
    ("LOG_JSON", "perhaps", "LOG_JSON must be true or false; it is 'perhaps'"),
    ("LOG_LEVEL", "loud",
     "LOG_LEVEL must be one of 'debug', 'info', 'warning' or 'error'; it is 'loud'"),
    ("THREADWELL_JWT_ALGORITHMS", "",
     "THREADWELL_JWT_ALGORITHMS must have a length of at least 1"),
    ("AUDIT_KEEP_DAYS", "3", "AUDIT_KEEP_DAYS must be 0, or 30 at least"),
    ("LEASE_SECONDS", "14", "LEASE_SECONDS must be at least three times HEARTBEAT_SECONDS"),
    ("METRICS_TOKEN", "s3cret", "METRICS_TOKEN must have a length of at least 16"),
    ("LANGGRAPH_AES_KEY", "s3cret",
     "LANGGRAPH_AES_KEY is no key: A key for encryption has 16, 24 or 32 bytes, as they are or in Base64"),
    ("POSTGRES_URI", "mysql://a:s3cret@h/x",
     "POSTGRES_URI must be a URL that starts with postgresql:// or postgres://"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "said"), FAULTS)
def test_a_wrong_value_is_told_in_words_that_name_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidInputError) as refused:
        read_settings()
    assert refused.value.message == said


def test_all_that_is_wrong_is_told_at_once_and_a_field_by_its_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LOG_LEVEL", "loud")
    monkeypatch.setenv("DATABASE_URI", "postgresql://h/x")
    with pytest.raises(InvalidInputError) as refused:
        read_settings(port=70_000, database_url="mysql://h/x")
    told = [line.partition(" ")[0] for line in refused.value.message.splitlines()]
    assert sorted(told) == ["DATABASE_URL", "LOG_LEVEL", "THREADWELL_PORT"]


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("DATABASE_URL", "postgresql://a:s3%zzcret@h/x"),
        ("DATABASE_URL", "postgresql://a:s3cret@[h/x"),
        ("DATABASE_URL", "postgresql://a:s3 cret@h/x"),
        ("DATABASE_URL", "postgresql://a:s3/cret@h/x"),
        ("DATABASE_URL", "postgresql://a:3/s3cret@h/x"),
        ("DATABASE_URL", "postgresql://a:b@h/x?s3cret=1"),
        ("REDIS_URL", "redis://:s3/cret@h/0"),
        ("REDIS_URL", "redis://:3/s3cret@h/0"),
        ("REDIS_URL", "redis://:s3#cret@h/0"),
        ("REDIS_URL", "redis://:s3cret@h\u2100st/0"),
        ("REDIS_URL", "redis://h/0?protocol=s3cret"),
    ],
)
def test_a_url_that_cannot_be_read_is_refused_and_nothing_of_it_is_told(
    monkeypatch: pytest.MonkeyPatch, name: str, url: str
) -> None:
    monkeypatch.setenv(name, url)
    with pytest.raises(InvalidInputError) as refused:
        read_settings()
    assert refused.value.message.startswith(f"{name} cannot be read as a URL")
    assert "s3" not in refused.value.message
    # Nor where the error is logged with all that led to it.
    assert "s3" not in "".join(traceback.format_exception(refused.value))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:s%2F3@one,two/name?target_session_attrs=read-write",
        "postgres://u:p%40@one:5432,two:5433/name",
        "postgresql://threadwell@/threadwell?host=/tmp/run",
    ],
)
def test_a_url_of_postgresql_is_taken_as_libpq_takes_it(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    assert read_settings().database_url == url
