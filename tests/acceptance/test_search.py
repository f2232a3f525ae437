"""Search over HTTP: case 10 of the acceptance; its budget of time is `tests/bench/test_search.py`."""

import httpx
import pytest

from tests.acceptance.process import ServerProcess
from tests.acceptance.test_sessions import ask, pages, session

SAID = {
    "zh": "我们用向量数据库做全文搜索。",
    "ja": "PostgreSQLの全文検索を試す。",
    "ko": "한국어 검색을 시험한다.",
    "en": "Which search engines index running text?",
}


@pytest.mark.parametrize(
    ("asked", "language"),
    [
        ("搜索", "zh"),
        ("向量", "zh"),
        ("数据库", "zh"),
        ("量数", "zh"),
        ("検索", "ja"),
        ("試", "ja"),
        ("검색", "ko"),
        ("한국", "ko"),
        ("engine run", "en"),
        ("indexing", "en"),
        ("PostgreSQL 全文検索", "ja"),
    ],
)
async def test_a_word_is_found_on_any_replica_as_soon_as_it_was_said(
    http: httpx.AsyncClient, server: ServerProcess, asked: str, language: str
) -> None:
    ids = {each: await session(http, name=each) for each in SAID}
    for each, query in SAID.items():
        assert (await ask(http, ids[each], query)).status_code == 200

    found = [hit for page in await pages(http, "/api/search", q=asked, role="user") for hit in page]
    mine = [hit for hit in found if hit["session_id"] in ids.values()]
    assert [hit["session_id"] for hit in mine] == [ids[language]]
    assert mine[0]["session_name"] == language
    assert "<mark>" in mine[0]["snippet"]
    plain = mine[0]["snippet"].replace("<mark>", "").replace("</mark>", "")
    assert plain == SAID[language]
    history = (await http.get(f"/api/sessions/{ids[language]}/messages")).json()["data"]
    assert mine[0]["message_id"] == history[0]["id"]


async def test_a_session_is_searched_in_pages(http: httpx.AsyncClient) -> None:
    session_id = await session(http)
    for number in range(5):
        assert (await ask(http, session_id, f"the word zyzzyva, time {number}")).status_code == 200

    found = await pages(
        http, "/api/search", q="zyzzyvas", session_id=session_id, role="user", limit=2
    )
    assert [len(page) for page in found] == [2, 2, 1]
    ids = {hit["message_id"] for page in found for hit in page}
    assert len(ids) == 5


@pytest.mark.parametrize(
    ("params", "status", "code"),
    [
        ({}, 422, "invalid_input"),
        ({"q": ""}, 422, "invalid_input"),
        ({"q": "x" * 501}, 422, "invalid_input"),
        ({"q": " ".join(f"w{n}" for n in range(40))}, 422, "invalid_input"),
        ({"q": "x", "role": "nobody"}, 422, "invalid_input"),
        ({"q": "x", "from": "yesterday"}, 422, "invalid_input"),
        ({"q": "x", "limit": 101}, 422, "invalid_input"),
        ({"q": "x", "cursor": "WzFd"}, 400, "bad_cursor"),
        ({"q": "x", "cursor": "!"}, 400, "bad_cursor"),
        ({"q": "x", "session_id": "00000000-0000-7000-8000-000000000000"}, 404, "not_found"),
    ],
)
async def test_what_is_asked_wrongly_is_said(
    http: httpx.AsyncClient, params: dict[str, str], status: int, code: str
) -> None:
    answer = await http.get("/api/search", params=params)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_words_that_are_in_every_sentence_find_nothing(http: httpx.AsyncClient) -> None:
    for asked in ("the", "is it", "?!", "' & | :* \\", "%00"):
        answer = await http.get("/api/search", params={"q": asked})
        assert answer.status_code == 200
        assert "<mark>" not in answer.text or asked == "%00"
