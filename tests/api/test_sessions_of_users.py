"""Sessions where users are known."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.settings import Settings

ADA, EVE = {"authorization": "Bearer ada"}, {"authorization": "Bearer eve"}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    config = tmp_path / "langgraph.json"
    graphs = {"chat": "tests.graph.sample_graphs:chat"}
    config.write_text(json.dumps({"graphs": graphs, "auth": {"path": "tests.api.auths:owners"}}))
    return Settings(config=config)


async def created(http: httpx.AsyncClient, **attributes: Any) -> dict[str, Any]:
    answer = await http.post("/api/sessions", json=attributes, headers=ADA)
    assert answer.status_code == 200, answer.text
    session: dict[str, Any] = answer.json()
    return session


async def test_a_session_is_its_makers_and_nobody_gives_it_away(http: httpx.AsyncClient) -> None:
    session = await created(http)
    for body in ({"user_id": "eve"}, {"metadata": {"user_id": "eve"}}):
        refused = await http.post("/api/sessions", json=body, headers=ADA)
        assert (refused.status_code, refused.json()["code"]) == (403, "permission_denied")
    given = await http.patch(
        f"/api/sessions/{session['id']}", json={"metadata": {"user_id": "eve"}}, headers=ADA
    )

    assert given.status_code == 403
    assert session["user_id"] == "ada"
    assert (await created(http, user_id="ada"))["user_id"] == "ada"
    listed = (await http.get("/api/sessions", headers=ADA)).json()["data"]
    assert [row["user_id"] for row in listed] == ["ada", "ada"]
    assert (await http.get("/api/sessions", headers=EVE)).json()["data"] == []
    counted = await http.get("/api/sessions", params={"counts": "true"}, headers=EVE)
    assert counted.json()["counts"]["active"] == 0


async def test_that_a_session_was_purged_is_told_to_who_could_see_it(
    http: httpx.AsyncClient,
) -> None:
    path = f"/api/sessions/{(await created(http, name='secret'))['id']}"
    stolen = await http.delete(path, params={"purge": "true"}, headers=EVE)
    purged = await http.delete(path, params={"purge": "true"}, headers=ADA)

    answers = [await http.post(f"{path}/restore", headers=who) for who in (ADA, EVE)]

    assert (stolen.status_code, purged.status_code) == (404, 204)
    assert [answer.status_code for answer in answers] == [410, 404]


async def test_everybody_has_an_opinion_of_their_own(http: httpx.AsyncClient) -> None:
    path = f"/api/sessions/{(await created(http))['id']}/messages"
    said = (await http.post(path, json={"query": "hello"}, headers=ADA)).json()

    mine = await http.put(f"{path}/{said['id']}/feedback", json={"score": 80}, headers=ADA)
    theirs = await http.put(f"{path}/{said['id']}/feedback", json={"score": 0}, headers=EVE)
    taken = await http.delete(f"{path}/{said['id']}/feedback", headers=EVE)

    assert (mine.status_code, theirs.status_code, taken.status_code) == (200, 404, 404)
    shown = (await http.get(path, headers=ADA)).json()["data"][-1]["feedback"]
    assert shown == {"score": 80, "rating": "like", "reason": None, "tags": []}
