"""In which language errors are told, that each has both, and that no character is lost on the way."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from string import Formatter
from typing import Any

import httpx
import pytest

from api.http.languages import catalogue, chosen, in_chinese
from store import errors
from tests.api.conftest import BODY_MAX_BYTES

ROOT = Path(__file__).parents[2]
ZH = {"accept-language": "zh-CN,zh;q=0.9,en;q=0.8"}

#: What is told at the start, to jobs and logs, to graphs, or in the words of another protocol.
ELSEWHERE = re.compile(
    r"api/(a2a/\w+|backing|bootstrap|custom_app|prices|sdk_cache|settings|console/(build_ui|commands|keys)|http/jsonrpc|identity/permissions|protocol/(commands|socket|stream)"
    r"|processes/(embedded|shared_server|supervisor|unprivileged)|doors/\w+|compat/\w+"
    r"|routes/(a2a|mcp|openai\w*|protocol))\.py"
    r"|graph/(agents/\w+|config|crons|custom|encryption|factory|http_section|jobs|persistence|priorities"
    r"|protocol_events|ui_section|user|webhook_config)\.py"
    r"|store/(cache|chatchat|events|lane|migrate|rings|urls|vectors|sql/__init__)\.py"
)
#: Errors that no request is answered with, and texts that are another's.
UNTOLD = {"JobFailedError", "LeaseLostError", "BrokenOffError"}
#: Of `auth` in langgraph.json, and of settings, which stop the start.
STARTING = {
    "auth: {} is no usable `Auth`: {}", "it is a {}", "it has no @auth.authenticate handler",
    "THREADWELL_JWT_JWKS: {} is neither a URL nor a file",
    "THREADWELL_JWT_ISSUER, or THREADWELL_JWT_JWKS, must be https: keys that somebody on the way could "
    "change prove nothing. A file of the keys will do, too",
    "METRICS_PORT: cannot listen on {}:{}: {}",
    "langgraph.json: `checkpointer.path`: {} is not async",
    "OTEL_TRACES_EXPORTER is otlp: pip install 'threadwell[otel]'",
    "authenticate's {} cannot be filled", "authenticate wants {}; nothing fills it",
}  # fmt: skip


def _text(node: ast.expr, named: dict[str, str]) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.Name):
        return named.get(node.id)
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values
        )
    return None


def _is_told(name: str) -> bool:
    kind = getattr(errors, name, None)
    return name not in UNTOLD and (kind is not None or name == "PydanticCustomError")


def _messages(path: Path) -> Iterator[str]:
    """The texts of the errors that a module raises, with {} for what they name."""
    tree = ast.parse(path.read_text())
    named: dict[str, str] = {}
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        value = getattr(node, "value", None)
        if isinstance(target, ast.Name) and value is not None and (text := _text(value, {})):
            named[target.id] = text
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name | ast.Attribute):
            continue
        name = call.func.id if isinstance(call.func, ast.Name) else call.func.attr
        place = int(name == "PydanticCustomError")
        if _is_told(name) and len(call.args) > place:
            text = _text(call.args[place], named)
            # Those of pydantic have names.
            text = re.sub(r"\{\w+\}", "{}", text or "")
            if re.search("[A-Za-z]", text):
                yield text


MODULES = [
    path
    for layer in ("api", "graph", "store")
    for path in sorted((ROOT / layer).rglob("*.py"))
    if not ELSEWHERE.fullmatch(str(path.relative_to(ROOT)))
]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_message_of_an_error_has_both_languages(path: Path) -> None:
    known = catalogue()["messages"]

    assert sorted({text for text in _messages(path) if text not in known} - STARTING) == []


def _codes() -> set[str]:
    table = (ROOT / "docs/api.md").read_text().partition("## Errors")[2].partition("\n## ")[0]
    rows = [line.split("|")[2] for line in table.splitlines() if line.startswith("| ")]
    documented = {code for row in rows for code in re.findall("`(\\w+)`", row)}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    own = {kind.default_code for kind in kinds if issubclass(kind, errors.Error)}
    return documented | own


def test_every_code_has_both_languages() -> None:
    assert sorted(_codes() - catalogue()["codes"].keys()) == []


def test_a_translation_names_what_the_original_names() -> None:
    wrong = []
    for english, chinese in catalogue()["messages"].items():
        places = [name for _, name, _, _ in Formatter().parse(chinese) if name is not None]
        used = set(range(len(places))) if "" in places else {int(place) for place in places}
        # pydantic names kinds of Python's, too.
        needless = "{} should have" in english or "or instance of {}" in english
        if len(used) < english.count("{}") - needless:
            wrong.append(english)

    assert wrong == []
    assert catalogue().keys() == {"codes", "messages"}
    assert not [text for of in catalogue().values() for text in of.values() if text.isascii()]


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "en"), ("zh", "zh"), ("zh-TW", "zh"), ("ZH-hans-CN;q=0.5", "zh"), ("ja, zh;q=0.1", "zh"),
        ("en, zh", "en"), ("en;q=0.5, zh;q=0.9", "zh"), ("zh;q=0", "en"), ("zh;q=x", "en"),
        ("fr", "en"), ("*", "en"), (";;,,", "en"), ("x" * 5000 + ",zh", "en"),
    ],
)  # fmt: skip
def test_the_language_is_the_one_liked_best_of_those_there_are(header: str, language: str) -> None:
    assert chosen(header) == language


def test_what_the_catalogue_does_not_know_is_told_after_what_it_means() -> None:
    assert in_chinese("It broke", "run_failed") == "运行失败（It broke）"
    assert in_chinese("It broke", "unheard_of") == "It broke"
    several = "body.name: Field required\nquery: Input should be a valid integer"
    assert in_chinese(several, "invalid_input") == "body.name：必须给出\nquery：应为整数"
    assert in_chinese("Session {} 🙂\n{x} not found", "not_found") == "找不到会话 {} 🙂\n{x}"


MISSING = "/api/sessions/00000000-0000-7000-8000-000000000000"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code", "chinese"),
    [
        ("GET", MISSING, None, 404, "not_found", f"找不到会话 {MISSING[-36:]}"),
        ("GET", "/api/sessions?limit=0", None, 422, "invalid_input", "limit：应大于或等于 1"),
        ("POST", "/api/sessions", b"{", 422, "invalid_json", "请求体不是有效的 JSON"),
        ("POST", "/api/sessions", b'{"name": 1}', 422, "invalid_input", "name：应为字符串"),
        ("GET", "/api/sessions?cursor=x", None, 400, "bad_cursor", "游标无效"),
        ("GET", "/api/stats?tz=Mars", None, 422, "invalid_input",
         "时区 'Mars' 无效：请使用 IANA 格式（例如 'Asia/Shanghai'）。"),
        ("GET", "/nowhere", None, 404, "not_found", "未找到"),
        ("PUT", "/api/stats", None, 405, "method_not_allowed", "不支持该请求方法"),
        ("POST", "/api/sessions", b" " * (BODY_MAX_BYTES + 1), 413, "too_large",
         f"请求体超过 {BODY_MAX_BYTES} 字节"),
    ],
)  # fmt: skip
async def test_errors_are_told_in_the_language_that_is_liked_best(
    http: httpx.AsyncClient, method: str, path: str, body: Any, status: int, code: str, chinese: str
) -> None:
    plain = await http.request(method, path, content=body)
    liked = await http.request(method, path, content=body, headers=ZH)

    assert (liked.status_code, liked.json()) == (status, {"detail": chinese, "code": code})
    assert (plain.status_code, plain.json()["code"]) == (status, code)
    assert plain.json()["detail"].isascii()
    languages = [answer.headers["content-language"] for answer in (plain, liked)]
    assert languages == ["en", "zh"]
    assert "Accept-Language" in liked.headers["vary"]


async def test_where_programs_speak_it_stays_english(http: httpx.AsyncClient) -> None:
    thread = "00000000-0000-7000-8000-000000000000"
    for path in (
        f"/threads/{thread}",
        f"/runs/crons/{thread}",
        "/store/items?key=",
        "/v1/models/x",
    ):
        answer = await http.get(path, headers=ZH)
        assert answer.status_code >= 400
        assert answer.text.isascii()
        assert "content-language" not in answer.headers


class TestEverywhere:
    @pytest.fixture
    def settings(self, settings: Any) -> Any:
        return settings.model_copy(update={"translate_everything": True})

    async def test_unless_the_server_is_told_otherwise(self, http: httpx.AsyncClient) -> None:
        thread = "00000000-0000-7000-8000-000000000000"
        answer = await http.get(f"/threads/{thread}", headers=ZH)

        assert answer.json() == {"detail": f"找不到线程 {thread}", "code": "not_found"}

    async def test_also_in_openais_form(self, http: httpx.AsyncClient) -> None:
        unknown = await http.get("/v1/models/x", headers=ZH)
        wrong = await http.post("/v1/chat/completions", json={"model": 1}, headers=ZH)

        assert unknown.json()["error"]["message"] == "找不到模型（There is no such model）"
        assert wrong.json()["error"]["message"].startswith("model：应为字符串")
        for answer in (unknown, wrong):
            assert answer.headers["content-language"] == "zh"
            assert "Accept-Language" in answer.headers["vary"]


WORDS = "张三 🙂 ß e\u0301 \U0001f468\u200d\U0001f469\u200d\U0001f467 العربية"


async def test_no_character_is_lost(http: httpx.AsyncClient) -> None:
    session = {"name": WORDS, "user_id": WORDS, "chat_type": "客服", "metadata": {"键": WORDS}}
    made = (await http.post("/api/sessions", json=session)).json()
    said = await http.post(f"/api/sessions/{made['id']}/messages", json={"query": WORDS})
    listed = await http.get("/api/sessions", params={"user_id": WORDS})
    history = await http.get(f"/api/sessions/{made['id']}/messages")
    # A name is one line that nothing hides in: without joiners.
    name = f"{WORDS}.txt".replace("\u200d", "")
    files = {"file": (name, WORDS.encode(), "text/plain")}
    kept = (await http.post("/api/files", files=files)).json()
    counted = await http.get("/api/stats", params={"group_by": "user"})

    assert said.status_code == 200, said.text
    [found] = listed.json()["data"]
    assert (found["name"], found["user_id"], found["metadata"]["键"]) == (WORDS, WORDS, WORDS)
    assert history.json()["data"][0]["content"] == WORDS
    assert kept["name"] == name
    assert (await http.get(f"/api/files/{kept['id']}")).content == WORDS.encode()
    assert WORDS in [row["user"] for row in counted.json()["data"]]
