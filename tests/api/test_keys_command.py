"""`threadwell keys`, and who may be served where nobody has one."""

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from psycopg.conninfo import conninfo_to_dict

from api import __main__
from api.console import commands, keys as keys_command
from api.identity.keys import Keys
from api.processes.embedded import Servers
from api.settings import Settings
from graph.config import load_config
from store import keys
from store.database import Database
from store.errors import AuthenticationError, InvalidInputError, NotFoundError

OPTIONS: dict[str, Any] = {
    "owner": None, "name": "", "role": None, "permission": None, "expires": "90d", "json": False,
}  # fmt: skip


async def run(db: Database, action: str, key_id: str | None = None, **options: Any) -> str:
    return await keys_command.plan(action, key_id, **{**OPTIONS, **options})(db)


async def test_a_key_is_shown_once_listed_without_what_opens_and_revoked(db: Database) -> None:
    text = await run(
        db, "create", owner="ada", name="laptop", role=["reader"], permission=["my:app"]
    )
    await run(db, "create", owner="eve", expires="never")
    found = await Keys(db).authenticate(text)
    listed, told = await run(db, "list"), json.loads(await run(db, "list", owner="ada", json=True))
    key_id = told[0]["key_id"]

    assert {"threads:read", "store:get", "my:app"} < set(found.user.permissions)
    assert text not in listed
    assert text.removeprefix(key_id)[1:] not in listed
    assert [line.split()[1:3] for line in listed.splitlines()[1:]] == [
        ["ada", "laptop"],
        ["eve", "-"],
    ]
    assert listed.splitlines()[2].endswith("never")
    assert [one["owner"] for one in told] == ["ada"]
    assert "secret_hash" not in told[0]
    # By its id, or whole, as it may lie in a file.
    assert await run(db, "revoke", text) == f"{key_id} of ada is revoked"
    assert json.loads(await run(db, "revoke", key_id, json=True))["revoked_at"]
    with pytest.raises(AuthenticationError):
        await Keys(db).authenticate(text)
    assert "revoked" in (await run(db, "list")).splitlines()[1]
    with pytest.raises(NotFoundError):
        await run(db, "revoke", "tw_nothing")


async def test_keys_have_the_time_that_was_said(db: Database) -> None:
    for expires, seconds in (("30m", 1800), ("12h", 43_200), ("90d", 7_776_000)):
        made = json.loads(await run(db, "create", owner="ada", expires=expires, json=True))
        key = await keys.find(db, made["key_id"].removeprefix("tw_"))
        assert key is not None
        assert key.expires_in_seconds == pytest.approx(seconds, abs=30)
        assert made["key"].startswith(made["key_id"])


@pytest.mark.parametrize(
    ("action", "options"),
    [
        ("revoke", {}), ("create", {}), ("create", {"owner": ""}), ("create", {"owner": "a\nb"}),
        ("create", {"owner": "a" * 256}), ("create", {"owner": "a", "expires": "soon"}),
        ("create", {"owner": "a", "expires": "0d"}), ("create", {"owner": "a", "expires": "99999999d"}),
        ("create", {"owner": "a", "role": ["root"]}), ("create", {"owner": "a", "permission": ["threads:fly"]}),
        ("create", {"owner": "a", "permission": ["read"]}), ("create", {"owner": "a", "name": "\0"}),
    ],
)  # fmt: skip
def test_what_is_not_clear_is_refused_before_anything_is_done(
    action: str, options: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInputError):
        keys_command.plan(action, None, **{**OPTIONS, **options})


def test_the_command_makes_a_key_and_a_server_for_all_machines_then_asks_for_it(
    tmp_path: Path, servers: Servers, database_url: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    config = tmp_path / "langgraph.json"
    config.write_text(json.dumps({"graphs": {"chat": "tests.graph.sample_graphs:chat"}}))
    name = conninfo_to_dict(database_url)["dbname"]
    url = urlsplit(servers.database_url)._replace(path=f"/{name}").geturl()
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("REDIS_URL", servers.redis_url)
    monkeypatch.setenv("THREADWELL_CONFIG", str(config))
    monkeypatch.setattr("api.observability.logs.configure", lambda **_: None)

    assert __main__.main(["serve", "--host", "0.0.0.0", "--port", "0"]) == 1
    assert "threadwell keys create" in capsys.readouterr().err
    assert __main__.main(["keys", "create", "--owner", "ada"]) == 0
    assert capsys.readouterr().out.startswith("tw_")
    named = Servers(database_url, servers.redis_url)
    graphs = load_config(config)
    assert commands.access_of(Settings(host="0.0.0.0"), graphs, named) == "API keys"


def test_whether_what_is_at_rest_is_encrypted_is_said_at_the_start(tmp_path: Path) -> None:
    config = tmp_path / "langgraph.json"
    sections: dict[str, Any] = {"graphs": {"chat": "tests.graph.sample_graphs:chat"}}
    config.write_text(json.dumps(sections))
    plain, key = load_config(config), "0123456789abcdef"
    config.write_text(json.dumps({**sections, "encryption": {"path": "./keys.py:encryption"}}))
    own = load_config(config)

    assert commands.encryption_of(Settings(aes_key=None), plain).startswith("off: ")
    told = commands.encryption_of(Settings(aes_key=key), plain)
    assert re.fullmatch("on, key [0-9a-f]{8}", told)
    changed = Settings(aes_key="fedcba9876543210", encryption_old_keys=(key,))
    assert commands.encryption_of(changed, plain) not in (told, "off")
    assert "./keys.py:encryption" in commands.encryption_of(Settings(aes_key=key), own)


def test_who_may_call_is_said_at_the_start(
    tmp_path: Path, servers: Servers, database_url: str
) -> None:
    config = tmp_path / "langgraph.json"
    sections: dict[str, Any] = {"graphs": {"chat": "tests.graph.sample_graphs:chat"}}
    config.write_text(json.dumps(sections))
    named, plain = Servers(database_url, servers.redis_url), load_config(config)
    config.write_text(json.dumps({**sections, "auth": {"path": "./auth.py:auth"}}))
    own = load_config(config)
    everywhere: dict[str, Any] = {"host": "0.0.0.0"}
    jwt: Any = {"jwt_issuer": "https://issuer.example", "jwt_audience": ("threadwell",)}

    for host in ("127.0.0.1", "127.0.0.2", "localhost", "::1"):
        assert "this machine" in commands.access_of(Settings(host=host), plain, named)
    for host in ("0.0.0.0", "::", "", "10.0.0.1", "threadwell.example"):
        with pytest.raises(InvalidInputError, match="THREADWELL_ALLOW_ANYBODY"):
            commands.access_of(Settings(host=host), plain, named)
    assert "EVERYBODY" in commands.access_of(
        Settings(**everywhere, allow_anybody=True), plain, named
    )
    assert commands.access_of(Settings(**everywhere, **jwt), plain, named) == (
        "tokens of https://issuer.example"
    )
    assert commands.access_of(Settings(**everywhere), own, named) == "as ./auth.py:auth says"
    both = Settings(**everywhere, **jwt, auth=("jwt", "keys"))
    assert commands.access_of(both, plain, named).startswith("API keys and tokens")
    with pytest.raises(InvalidInputError):
        commands.access_of(Settings(**everywhere, auth=("none",)), plain, named)
