"""Whom Open WebUI asks for: by the token that it signs, and by nothing that anybody could write."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import jwt
import pytest
from pydantic import SecretStr

from api.app import create_app
from api.bootstrap import Services, open_services
from api.identity.forwarded import MAX_CHARACTERS
from api.identity.owners import Owners
from api.processes.embedded import Servers
from api.settings import Settings
from store import keys
from store.errors import InvalidInputError
from tests.api.issuers import RSA_KEY, make_key, unsigned
from tests.graph.engines import until
from tests.serving import serving

SECRET = "what only the two of them know, and nobody else who could write a header"
ADA, EVE = "5f7b9c1e-0d6b-4c0e-9a34-3f1f7a0c1d2e", "c0ffee00-0d6b-4c0e-9a34-3f1f7a0c1d2e"


def claims(sub: Any = ADA, **more: Any) -> dict[str, Any]:
    """What Open WebUI 0.12 says of a user."""
    now = int(time.time())
    told = {
        "sub": sub, "email": "ada@example.com", "name": "Ada", "role": "user",
        "iss": "open-webui", "iat": now, "exp": now + 300,
    }  # fmt: skip
    return {name: value for name, value in {**told, **more}.items() if value is not None}


def forwarded(sub: str = ADA, **more: Any) -> dict[str, str]:
    return {"X-OpenWebUI-User-Jwt": jwt.encode(claims(sub, **more), SECRET, algorithm="HS256")}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    config = tmp_path / "langgraph.json"
    about = {
        "graphs": {name: f"tests.graph.sample_graphs:{name}" for name in ("chat", "endless")},
        "http": {"configurable_headers": {"includes": ["x-*"]}},
    }
    config.write_text(json.dumps(about))
    return Settings(
        config=config,
        auth=("keys",),
        auth_failures_per_minute=2,
        openwebui_jwt_secret=SecretStr(SECRET),
        caller_look_seconds=0.2,
    )


@pytest.fixture
async def webui(services: Services) -> dict[str, str]:
    """The headers of Open WebUI, by its key."""
    key = await make_key(services.db, "open-webui", role=["service"])
    return {"authorization": f"Bearer {key}"}


async def say(http: httpx.AsyncClient, headers: dict[str, str], chat_id: str) -> httpx.Response:
    body = {"model": "chat", "messages": [{"role": "user", "content": "hello"}]}
    return await http.post(
        "/v1/chat/completions", json=body, headers={**headers, "X-OpenWebUI-Chat-Id": chat_id}
    )


async def test_each_user_of_open_webui_has_their_own_sessions(
    http: httpx.AsyncClient, services: Services, webui: dict[str, str]
) -> None:
    chat_id = str(uuid4())
    for_ada, for_eve = {**webui, **forwarded(ADA)}, {**webui, **forwarded(EVE)}
    said = await say(http, for_ada, chat_id)
    by_a_stranger = await say(http, for_eve, chat_id)
    own_key = {"authorization": f"Bearer {await make_key(services.db, ADA)}"}
    seen = (await http.get(f"/api/sessions/{chat_id}", headers=own_key)).json()
    runs = (await http.get(f"/threads/{chat_id}/runs", headers=for_ada)).json()
    configurable = runs[0]["kwargs"]["config"]["configurable"]

    assert said.status_code == 200, said.text
    assert by_a_stranger.status_code == 404
    assert (seen["user_id"], seen["metadata"]["owner"]) == (ADA, ADA)
    assert (await http.get("/api/sessions", headers=for_eve)).json()["data"] == []
    assert (await http.get(f"/api/sessions/{chat_id}", headers=webui)).status_code == 404
    user = configurable["langgraph_auth_user"]
    assert (user["identity"], user["actor"]) == (ADA, "open-webui")
    assert not [name for name in user["permissions"] if name.startswith("users:")]
    # It would open the door to whoever reads the run.
    assert "x-openwebui-chat-id" in configurable
    assert "x-openwebui-user-jwt" not in configurable
    assert for_ada["X-OpenWebUI-User-Jwt"] not in json.dumps(runs)


async def test_a_user_who_is_forwarded_by_anything_else_is_refused(
    http: httpx.AsyncClient, webui: dict[str, str]
) -> None:
    def signed(algorithm: str = "HS256", key: Any = SECRET, **more: Any) -> str:
        return jwt.encode(claims(**more), key, algorithm=algorithm)

    now = int(time.time())
    head, body, signature = signed().split(".")
    other_body = signed(sub=EVE).split(".")[1]
    wrong = {
        "another secret": signed(key=SECRET + "?"),
        "another's words under a signature": f"{head}.{other_body}.{signature}",
        "no signature": f"{head}.{body}.",
        "no algorithm": unsigned(claims(), alg="none"),
        "another algorithm": signed("HS512"),
        "a key of one's own": signed("RS256", RSA_KEY),
        "another issuer": signed(iss="somebody"),
        "no issuer": signed(iss=None),
        "no end": signed(exp=None),
        "no beginning": signed(iat=None),
        "of tomorrow": signed(iat=now + 3600),
        "nobody": signed(sub=""),
        "nobody at all": signed(sub=None),
        "no name": signed(sub="a\tb"),
        "too long": signed(name="x" * MAX_CHARACTERS),
        "nothing": "",
        "no token": "ada",
    }
    for name, token in wrong.items():
        sent = {**webui, "X-OpenWebUI-User-Jwt": token}
        refused = await http.post("/threads", json={}, headers=sent)
        assert (refused.status_code, refused.json()["code"]) == (401, "unauthenticated"), name
        assert token not in refused.text or not token
    late = await http.post(
        "/threads", json={}, headers={**webui, **forwarded(iat=now - 400, exp=now - 31)}
    )
    just = await http.post("/threads", json={}, headers={**webui, **forwarded(exp=now - 5)})

    assert (late.status_code, late.json()["detail"]) == (
        401, "The token of the forwarded user has expired",
    )  # fmt: skip
    assert just.json()["metadata"]["owner"] == ADA
    # Open WebUI is no address that guesses keys: none of it was counted.
    assert (await http.post("/threads", json={}, headers=webui)).status_code == 200


async def test_an_answer_goes_on_when_the_token_is_over_and_ends_when_the_key_is_revoked(
    http: httpx.AsyncClient,
    services: Services,
    webui: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    owners = services.authority
    assert isinstance(owners, Owners)

    async def known_anew() -> bool:
        return bool(owners._known._users)

    now = int(time.time())
    for_ada = {**webui, **forwarded(iat=now - 320, exp=now - 20)}
    body = {"model": "endless", "messages": [{"role": "user", "content": "x"}], "stream": True}
    async with (
        asyncio.timeout(30),
        http.stream("POST", "/v1/chat/completions", json=body, headers=for_ada) as answer,
    ):
        assert answer.status_code == 200
        monkeypatch.setattr(owners._forwarded, "_leeway_seconds", 0)
        # Asked whether the answer is theirs, it was let go on, or it would not be asked again.
        for _ in range(2):
            owners._known._users.clear()
            await until(known_anew)
        assert (await http.post("/threads", json={}, headers=for_ada)).status_code == 401
        await keys.revoke(services.db, webui["authorization"].split("_")[1])
        owners._known._users.clear()
        with pytest.raises(httpx.RemoteProtocolError):
            await answer.aread()


async def test_a_forwarded_user_needs_a_key_that_may_act_for_others(
    http: httpx.AsyncClient, services: Services, webui: dict[str, str]
) -> None:
    plain = {"authorization": f"Bearer {await make_key(services.db, 'bob')}"}
    for token in (forwarded(), {"X-OpenWebUI-User-Jwt": "wrong"}):
        refused = await http.post("/threads", json={}, headers={**plain, **token})
        assert (refused.status_code, refused.json()["code"]) == (403, "permission_denied")
    assert (await http.post("/threads", json={}, headers=forwarded())).status_code == 401
    two = {**webui, **forwarded(), "X-On-Behalf-Of": EVE}
    assert (await http.post("/threads", json={}, headers=two)).status_code == 400
    twice = {**webui, **forwarded(), "X-On-Behalf-Of": ADA}
    assert (await http.post("/threads", json={}, headers=twice)).json()["metadata"]["owner"] == ADA


async def test_without_the_secret_the_header_counts_for_nothing_and_without_keys_the_secret_is_refused(
    settings: Settings, servers: Servers, database_url: str
) -> None:
    urls = {"database_url": database_url, "redis_url": servers.redis_url}
    off = settings.model_copy(update={"openwebui_jwt_secret": None})
    async with (
        open_services(off, **urls) as services,
        serving(create_app(services)) as url,
        httpx.AsyncClient(base_url=url, timeout=30) as http,
    ):
        key = await make_key(services.db, "open-webui", role=["service"])
        sent = {"authorization": f"Bearer {key}", **forwarded()}
        made = (await http.post("/threads", json={}, headers=sent)).json()
    assert made["metadata"]["owner"] == "open-webui"
    nobody = settings.model_copy(update={"auth": ("none",)})
    with pytest.raises(InvalidInputError, match="would do nothing"):
        async with open_services(nobody, **urls):
            pass
    assert SECRET not in repr(settings)
