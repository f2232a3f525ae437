"""
What docs/sessions.md and other pages show is what a server does: every request is sent, every answer
compared.

A page takes part by having blocks of these kinds; each page gets a server and a database of its own,
and is followed from its top to its end.

    ```http                         a request: its line, headers if any, a blank line, its body;
    POST /api/sessions              JSON needs no Content-Type

    {"name": "First"}
    ```

    ```http                         and its answer: status, headers that matter if any, a blank line,
    HTTP/1.1 200 OK                 its body

    {"id": "<session>", "name": "First", "create_time": "<time>", "…": "…"}
    ```

    ```python run                   a script that must run through; http://127.0.0.1:2024 in it is the
    …                               page's server. (A plain ```python block is not run.)
    ```

In an answer, and in every string of it:

    <session>      a name stands for one value: what it has where it comes first, and the same wherever
                   it comes again, in answers, and in paths, headers, bodies and scripts that follow. Alone
                   in its string it may be a number.
    <time> <number>  any time as the API writes it, any number
    …              anything: as a value "…", within a string "begins with …", as a key "…": "…" whatever
                   else an object has, as last element "…" whatever else a list has, as a line of a text any
                   number of lines, as a frame of a stream any number of frames

Whatever else is there must be equal: keys that a page does not name are a mismatch. JSON is compared as
JSON, ``text/event-stream`` frame by frame (`event:`, `data:`; an `id:` is compared if it is written), all
else line by line. A stream that the page ends with … is left there; others must end.

`<!-- soon -->` in the line above a request has it repeated until its answer is as the page says: for what
comes in the wake of something. Blocks inside of `<!-- … -->` are followed too: steps that readers need not
see. A request whose Content-Type is multipart is sent with CRLF.

A page that wants another server than `make run` gives says so anywhere, in JSON:

    <!-- server: {"auth": true, "graphs": {"slow": "tests.graph.sample_graphs:endless"},
                  "settings": {"request_body_max_bytes": 4096}, "config": {"http": {}}} -->

`auth`: users are known, see `tests.docs.auth`; `graphs`: beside the bundled ``agent``, which comes first;
`settings`: fields of `api.settings.Settings`; `config`: keys of langgraph.json. All are optional.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from api.app import open_app
from api.bootstrap import open_services
from api.processes.embedded import Servers
from api.settings import Settings
from tests.docs.pages import Mismatch, Page, filled, follow, match_lines, matches, read
from tests.serving import serving

ROOT = Path(__file__).parents[2]
PAGES = {
    path.stem: page for path in sorted((ROOT / "docs").glob("*.md")) if (page := read(path)).steps
}


def langgraph_json(page: Page, directory: Path) -> Path:
    """The langgraph.json that a page's server is started with."""
    graphs = {"agent": f"{ROOT}/graph/agents/chat.py:graph", **page.config.get("graphs", {})}
    config = {"graphs": graphs, **page.config.get("config", {})}
    if page.config.get("auth"):
        config["auth"] = {"path": "tests.docs.auth:auth", "disable_studio_auth": True}
    path = directory / "langgraph.json"
    path.write_text(json.dumps(config))
    return path


@pytest.mark.parametrize("name", PAGES)
async def test_a_page_shows_what_the_server_does(
    name: str,
    servers: Servers,
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    page = PAGES[name]
    settings = Settings(config=langgraph_json(page, tmp_path), **page.config.get("settings", {}))
    async with (
        open_services(settings, database_url=database_url, redis_url=servers.redis_url) as services,
        services.worker.working(),
        open_app(services) as app,
        serving(app) as url,
    ):
        await follow(page, url)


# --------------------------------------------------------------------- what would not be noticed

SAME: list[tuple[Any, Any]] = [
    ({"a": 1, "…": "…"}, {"a": 1, "b": 2}),
    ({"a": "<x>", "b": "<x>"}, {"a": "1", "b": "1"}),
    ({"a": "<time>"}, {"a": "2026-11-26T14:00:00.123456+00:00"}),
    ({"a": "<number>"}, {"a": 1.5}),
    ([1, "…"], [1, 2, 3]),
    ("/s/<token>?x=…", "/s/abc?x=1"),
    ("…", None),
]
DIFFERENT: list[tuple[Any, Any]] = [
    ({"a": 1}, {"a": 1, "b": 2}),
    ({"a": 1, "…": "…"}, {"b": 2}),
    ({"a": "<x>", "b": "<x>"}, {"a": "1", "b": "2"}),
    ({"a": "<time>"}, {"a": "yesterday"}),
    ({"a": "<number>"}, {"a": "x"}),
    ([1], [1, 2]),
    ([1, 2, "…"], [1]),
    (True, 1),
    ("x…", "yx"),
    (None, ""),
    ("<x>", None),
]


@pytest.mark.parametrize(("expected", "found"), SAME)
def test_what_is_as_the_page_says_passes(expected: Any, found: Any) -> None:
    matches(expected, found, {}, "$")


@pytest.mark.parametrize(("expected", "found"), DIFFERENT)
def test_what_is_otherwise_is_noticed(expected: Any, found: Any) -> None:
    with pytest.raises(Mismatch):
        matches(expected, found, {}, "$")


def test_names_are_learnt_and_filled_in() -> None:
    known: dict[str, str] = {}

    matches({"id": "<session>", "url": "/s/<token>"}, {"id": "7", "url": "/s/t"}, known, "$")

    assert filled("GET /api/sessions/<session>?t=<token>&<other>", known) == (
        "GET /api/sessions/7?t=t&<other>"
    )


def test_texts_are_compared_by_their_lines() -> None:
    match_lines(["a", "…", "z"], ["a", "b", "c", "z"], {})
    for expected in (["a", "z"], ["a", "…", "y"], ["a"], ["a", "b", "c", "z", "!"]):
        with pytest.raises(Mismatch):
            match_lines(expected, ["a", "b", "c", "z"], {})


PAGE = """
```http
GET /json
```

```http
HTTP/1.1 200 OK
X-Kind: <kind>

{"n": 1}
```

```http
GET /<kind>
Accept: text/event-stream
```

```http
HTTP/1.1 200 OK

event: a
data: {"id": "<one>"}

…

event: z
data: {"of": "<one>"}
```

```python run
assert "<one>" == "7"
```
"""


async def _app(scope: Any, receive: Any, send: Any) -> None:
    stream = b'event: a\ndata: {"id": "7"}\n\nevent: b\ndata: x\n\nevent: z\ndata: {"of": "7"}\n\n'
    is_json = scope["path"] == "/json"
    media_type = b"application/json" if is_json else b"text/event-stream"
    headers = [(b"content-type", media_type), (b"x-kind", b"stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b'{"n": 1}' if is_json else stream})


@pytest.mark.parametrize(
    ("here", "there"),
    [
        ("", ""),
        ("200 OK\nX", "201 OK\nX"),
        ("X-Kind: <kind>", "X-Kind: other"),
        ('{"n": 1}', '{"n": 2}'),
        ("\n…\n", "\n"),
        ("event: z", "event: y"),
        ('{"of": "<one>"}', '{"of": "8"}'),
        ('{"of": "<one>"}\n', '{"of": "<one>"}\n\nevent: more\ndata: x\n'),
        ('== "7"', '== "8"'),
        ('event: z\ndata: {"of": "<one>"}\n', "event: b\ndata: x\n"),
    ],
)
async def test_a_page_is_followed_and_faults_in_it_are_noticed(
    here: str, there: str, tmp_path: Path
) -> None:
    path = tmp_path / "page.md"
    assert here in PAGE
    path.write_text(PAGE.replace(here, there, 1))
    async with serving(_app) as url:
        if here == there:
            await follow(read(path), url)
        else:
            with pytest.raises(Mismatch):
                await follow(read(path), url)


@pytest.mark.parametrize("text", ["```http\nGET /\n```\n", "```http\nHTTP/1.1 200 OK\n```\n"])
def test_a_request_needs_its_answer_and_an_answer_its_request(text: str, tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(text)
    with pytest.raises(ValueError, match="without"):
        read(path)


def test_pages_are_there() -> None:
    assert "sessions" in PAGES
