"""Generative UI: what is served of bundles that are there, of those that are not, and to whom."""

import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest

from api import __main__
from api.app import create_app
from api.bootstrap import open_services
from api.console.build_ui import build
from api.processes.embedded import Servers
from api.settings import Settings
from api.ui_bundles import FOLDER
from graph.config import load_config
from store.errors import InvalidInputError
from tests.serving import serving

NAME = "my agent"
UI = {NAME: "./ui.tsx", "later": "./later.tsx"}
ASKED = {"name": "weather"}

#: Serves a langgraph.json with these sections.
Serve = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """One with a bundle of one of its two names."""
    folder = tmp_path / FOLDER / "public" / NAME
    folder.mkdir(parents=True)
    (folder / "entrypoint.js").write_text("var __LGUI_my_agent = {}")
    (folder / "entrypoint.css").write_text(".a { color: red }")
    (folder / "odd").write_bytes(b"\x00")
    (tmp_path / FOLDER / "secret.txt").write_text("secret")
    return tmp_path


@pytest.fixture
def configured(project: Path) -> Callable[..., Path]:
    def write(**sections: Any) -> Path:
        config = project / "langgraph.json"
        graphs = {"chat": "tests.graph.sample_graphs:chat"}
        config.write_text(json.dumps({"graphs": graphs, "ui": UI, **sections}))
        return config

    return write


@pytest.fixture
def serve(configured: Callable[..., Path], servers: Servers, database_url: str) -> Serve:
    @asynccontextmanager
    async def start(*, strict: bool = False, **sections: Any) -> AsyncIterator[httpx.AsyncClient]:
        config = configured(**sections)
        settings = Settings(config=config, strict=strict, http_allowed_hosts=("*",))
        urls = {"database_url": database_url, "redis_url": servers.redis_url}
        async with (
            open_services(settings, **urls) as services,
            serving(create_app(services)) as url,
            httpx.AsyncClient(base_url=url, timeout=30) as http,
        ):
            yield http

    return start


class Page(HTMLParser):
    """The elements of an HTML text, each with its attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))


async def test_a_page_gets_the_elements_that_load_and_render_a_component(serve: Serve) -> None:
    async with serve() as http:
        answer = await http.post("/ui/my%20agent", json=ASKED)
        elsewhere = await http.post("/ui/my%20agent", json=ASKED, headers={"host": "api.example"})
        style, script = Page(answer.text).elements
        loaded = [
            await http.get(one[key] or "") for (_, one), key in ((style, "href"), (script, "src"))
        ]

    url = f"{http.base_url}/ui/my%20agent/entrypoint"
    render = '__LGUI_my_agent.render("weather", "{{shadowRootId}}")'
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert style == ("link", {"rel": "stylesheet", "href": f"{url}.css"})
    assert script == ("script", {"src": f"{url}.js", "onload": render})
    assert [one.text for one in loaded] == [".a { color: red }", "var __LGUI_my_agent = {}"]
    # What takes TLS away, if anything does, is not on this machine.
    assert 'src="//api.example/ui/my%20agent/entrypoint.js"' in elsewhere.text


@pytest.mark.parametrize(
    "name",
    [
        "a'b\"c",
        "</script><script>alert(1)</script>",
        "{{shadowRootId}}",
        "\\\u2028\n&quot;",
        "天气",
    ],
)
async def test_no_name_of_a_component_gets_out_of_its_place(serve: Serve, name: str) -> None:
    async with serve() as http:
        answer = await http.post("/ui/my%20agent", json={"name": name})

    _, (tag, attributes) = Page(answer.text).elements
    given, _, rest = (attributes["onload"] or "").partition('", "')
    assert tag == "script"
    assert attributes.keys() == {"src", "onload"}
    assert json.loads(given.removeprefix("__LGUI_my_agent.render(") + '"') == name
    assert rest == '{{shadowRootId}}")'
    assert answer.text.index("{{shadowRootId}}") == answer.text.rindex("{{shadowRootId}}")
    assert answer.text.isascii()


async def test_a_host_that_is_none_stays_in_its_attribute(serve: Serve) -> None:
    async with serve() as http:
        answer = await http.post(
            "/ui/my%20agent", json=ASKED, headers={"host": "x'\"><script>alert(1)</script>"}
        )

    assert [tag for tag, _ in Page(answer.text).elements] == ["link", "script"]


async def test_files_of_bundles_are_everybodys_and_nothing_else_is(serve: Serve) -> None:
    async with serve(auth={"path": "tests.api.auths:owners"}, http={"mount_prefix": "/my"}) as http:
        unknown = await http.post("/my/ui/my%20agent", json=ASKED)
        ada = {"authorization": "Bearer ada"}
        known = await http.post("/my/ui/my%20agent", json=ASKED, headers=ada)
        _, (_, script) = Page(known.text).elements
        files = [await http.get(f"/my/ui/my%20agent/{name}") for name in ("entrypoint.css", "odd")]
        file = await http.get(script["src"] or "")
        again = await http.get(script["src"] or "", headers={"if-none-match": file.headers["etag"]})
        others = [
            await http.get(f"/my/ui/{path}")
            for path in (
                "my%20agent/other.js", "later/entrypoint.js", "none/entrypoint.js",
                "my%20agent/..%2f..%2fsecret.txt", "..%2fsecret.txt",
                "my%20agent/%2e%2e/secret.txt", "..%2f..%2flanggraph.json/x", "my%20agent/odd%00",
            )
        ]  # fmt: skip

    assert unknown.status_code == 401
    assert script["src"] == f"{http.base_url}/my/ui/my%20agent/entrypoint.js"
    assert file.headers["content-type"] == "text/javascript; charset=utf-8"
    assert [one.headers["content-type"] for one in files] == [
        "text/css; charset=utf-8",
        "application/octet-stream",
    ]
    assert {one.headers["x-content-type-options"] for one in (file, *files)} == {"nosniff"}
    # It is asked for each time, and sent once.
    assert file.headers["cache-control"] == again.headers["cache-control"] == "no-cache"
    assert (again.status_code, again.content) == (304, b"")
    assert {one.status_code for one in others} == {404}
    assert all(one.json()["code"] == "not_found" for one in others)


async def test_what_cannot_be_shown_is_told(serve: Serve) -> None:
    async with serve() as http:
        answers = [await http.post(f"/ui/{name}", json=ASKED) for name in ("none", "later")]
        wrong = [
            await http.post("/ui/my%20agent", content=body)
            for body in (
                "{}",
                '{"name": 5}',
                '{"name": ""}',
                "[]",
                "x",
                f'{{"name": "{256 * "x"}"}}',
            )
        ]

    assert [(one.status_code, one.json()["code"]) for one in answers] == [(404, "not_found")] * 2
    assert "not built" in answers[1].json()["detail"]
    assert "not built" not in answers[0].json()["detail"]
    assert [one.status_code for one in wrong] == [422] * 6


async def test_strict_wants_every_bundle(serve: Serve) -> None:
    with pytest.raises(
        InvalidInputError, match="ui 'later' is not built: run `threadwell build-ui`"
    ):
        async with serve(strict=True):
            pass
    async with serve(strict=True, http={"disable_ui": True}) as http:
        answers = [await http.post("/ui/x", json=ASKED), await http.get("/ui/x/entrypoint.js")]

    assert [one.status_code for one in answers] == [404, 404]


@pytest.mark.parametrize(
    ("sections", "complaint"),
    [
        ({"ui": ["./ui.tsx"]}, "`ui` must be an object"),
        ({"ui": {"a/b": "./ui.tsx"}}, "`ui` has the name 'a/b', which is no segment of a path"),
        ({"ui": {"..": "./ui.tsx"}}, "`ui` has the name '..', which is no segment of a path"),
        ({"ui": {"a": {"path": "./ui.tsx"}}}, "`ui.a` must be the path of a file"),
        ({"ui_config": {"shared": "react"}}, "`ui_config.shared`: Input should be a valid list"),
    ],
)
def test_a_wrong_section_stops_the_start(
    configured: Callable[..., Path], sections: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(InvalidInputError, match=f"^.*langgraph.json: {complaint}"):
        load_config(configured(**sections))


def test_an_unknown_key_is_named(configured: Callable[..., Path]) -> None:
    config = load_config(configured(ui_config={"shared": ["a"], "minify": True}))

    assert (config.ui, config.ui_config.shared) == (UI, ["a"])
    assert config.unsupported == ("ui_config.minify",)


def test_what_the_build_lacks_is_named(configured: Callable[..., Path], tmp_path: Path) -> None:
    for name in ("node", "langgraphjs-ui"):
        file = tmp_path / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text("#!/bin/sh\nexit 3\n")
        file.chmod(0o700)
    path = {"PATH": f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}"}
    bundles = {file: file.read_bytes() for file in tmp_path.rglob("public/*/*")}

    with pytest.raises(InvalidInputError, match="names no components in `ui`"):
        build(load_config(configured(ui=None)), path)
    graphs = load_config(configured())
    with pytest.raises(InvalidInputError, match=r"Node\.js is not installed"):
        build(graphs, {"PATH": str(tmp_path)})
    with pytest.raises(InvalidInputError, match="npm install --save-dev @langchain/langgraph-ui"):
        build(graphs, path)
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules/.bin").symlink_to(tmp_path / "bin")
    with pytest.raises(InvalidInputError, match="langgraphjs-ui failed with status 3"):
        build(graphs, path)
    (tmp_path / "bin/langgraphjs-ui").write_text("#!/bin/sh\nexit 0\n")
    with pytest.raises(InvalidInputError, match=r"made no entrypoint\.js of my agent, later"):
        build(graphs, path)

    # Those that were there stay, and nothing else.
    assert {file: file.read_bytes() for file in tmp_path.rglob("public/*/*")} == bundles
    assert not list(tmp_path.glob(f".{FOLDER}*"))


def test_the_command_tells_what_is_wrong(
    configured: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert __main__.main(["build-ui", "--config", str(configured(ui={}))]) == 1
    assert "names no components in `ui`" in capsys.readouterr().err
