import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.store.memory import InMemoryStore
from langgraph_sdk.runtime import AccessContext

from graph.config import Serde, Ttl, load_config, load_env
from graph.factory import InvalidGraphError
from graph.registry import Registry, UnknownGraphError
from store.errors import InvalidInputError
from store.retention import Life

SAMPLES = "tests.graph.sample_graphs"
STATIC = """
from typing import TypedDict
from langgraph.graph import START, StateGraph

class State(TypedDict, total=False):
    text: str

def build(name="node"):
    builder = StateGraph(State)
    builder.add_node(name, lambda state: {"text": name})
    builder.add_edge(START, name)
    return builder
"""
CONFIG: Any = {"configurable": {"thread_id": "t", "who": "ada"}}

Project = Callable[..., Path]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project of one module `agents.py` and a langgraph.json."""
    monkeypatch.setattr(sys, "path", [*sys.path])

    def make(code: str = "", **config: Any) -> Path:
        (tmp_path / "agents.py").write_text(STATIC + code)
        path = tmp_path / "langgraph.json"
        path.write_text(json.dumps({"graphs": {"agent": "./agents.py:graph"}, **config}))
        return path

    return make


async def _open(
    registry: Registry, access_context: AccessContext = "threads.create_run", **about: Any
) -> list[str]:
    """The names of the nodes of the graph that is opened."""
    store = about.pop("store", None)
    async with registry.open(
        "agent",
        CONFIG,
        checkpointer=None,
        store=store,
        access_context=access_context,
        **about,
    ) as graph:
        return [name for name in graph.nodes if name != "__start__"]


async def _nodes(path: Path) -> list[str]:
    registry = await Registry.load(load_config(path))
    assert registry.failures == {}
    return await _open(registry)


def test_a_config_says_what_it_names_and_what_is_not_supported(project: Project) -> None:
    path = project(
        graphs={"a": "./agents.py:graph", "b": {"path": "pkg.mod:make", "description": "B."}},
        env={"NUMBER": 1, "WORD": "x"},
        dependencies=[".", "some-package"],
        python_version="3.12",
        http={"app": "./app.py:app", "disable_mpc": True},
        surprise=True,
        ui=None,
    )
    config = load_config(path)
    assert config.graphs["b"].target == "pkg.mod:make"
    assert config.graphs["b"].description == "B."
    assert config.env == {"NUMBER": "1", "WORD": "x"}
    assert config.dependencies == (path.parent,)
    assert config.missing == ("some-package",)
    assert config.http.app == "./app.py:app"
    assert config.unsupported == ("http.disable_mpc", "surprise")
    assert config.ignored == ("python_version",)


def test_a_config_says_how_long_threads_live(project: Project) -> None:
    assert load_config(project()).ttl == Ttl()
    checkpointer = {
        "path": "./saver.py:saver",
        "ttl": {
            "default_ttl": 90,
            "strategy": "keep_latest",
            "sweep_interval_minutes": 0.5,
            "x": 1,
        },
        "serde": {"allowed_msgpack_modules": [["a.b", "C"]], "pickle_fallback": True},
    }

    config = load_config(project(checkpointer=checkpointer))

    life = Life(ttl_minutes=90, strategy="keep_latest")
    assert config.ttl == Ttl(life, sweep_interval_minutes=0.5)
    assert config.unsupported == ("checkpointer.serde.pickle_fallback", "checkpointer.ttl.x")
    assert config.serde == Serde(msgpack=(("a.b", "C"),))


def test_env_may_be_a_file_beside_the_config(project: Project, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text('# a comment\nWORD="two words"\nEMPTY=\nBARE\n')
    assert load_config(project(env=".env")).env == {"WORD": "two words", "EMPTY": ""}


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"graphs": {}}, "names no graph"),
        ({"checkpointer": {"ttl": 5}}, "`checkpointer.ttl` must be an object"),
        ({"checkpointer": {"ttl": {"strategy": "forget"}}}, "strategy` is 'forget'"),
        ({"checkpointer": {"ttl": {"default_ttl": 0}}}, "default_ttl` must be a number above 0"),
        ({"graphs": {"a": "./agents.py"}}, "graph 'a' must be"),
        ({"graphs": {"a": {"description": "no path"}}}, "graph 'a' must be"),
        ({"graphs": {"a": {"path": "m:x", "description": 1}}}, "description of graph 'a'"),
        ({"env": "missing.env"}, "missing.env"),
        ({"env": 1}, "`env` must be"),
        ({"dependencies": "."}, "`dependencies` must be"),
        ({"dependencies": ["./missing"]}, "missing is not a directory"),
        ({"encryption": {"path": "./x.py"}}, "`encryption` must have `path`"),
        ({"encryption": {"path": "m:x", "paht": 1}}, "and no more"),
        (
            {"checkpointer": {"serde": {"allowed_msgpack_modules": ["a.b"]}}},
            "serde.allowed_msgpack",
        ),
        ({"http": 1}, "`http`"),
        ({"http": {"app": "./app.py"}}, "`http.app`"),
        ({"http": {"mount_prefix": "api"}}, "`http.mount_prefix`: .* must be a path"),
        ({"http": {"cors": {"max_age": "long"}}}, "`http.cors.max_age`"),
        ({"http": {"cors": {"allow_origin_regex": "("}}}, "no regular expression"),
        ({"http": {"disable_mcp": "yes"}}, "`http.disable_mcp`"),
        ({"http": {"middleware_order": "last"}}, "`http.middleware_order`"),
    ],
)
def test_a_wrong_config_is_refused_by_name(
    project: Project, config: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(InvalidInputError, match=complaint):
        load_config(project(**config))


@pytest.mark.parametrize(("text", "complaint"), [("{", "not JSON"), ("[]", "not a JSON object")])
def test_a_config_that_is_no_object_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "langgraph.json").write_text(text)
    with pytest.raises(InvalidInputError, match=complaint):
        load_config(tmp_path / "langgraph.json")


def test_a_missing_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="No such file"):
        load_config(tmp_path / "langgraph.json")


def test_sections_may_come_from_elsewhere_and_then_no_file_is_needed(
    project: Project, tmp_path: Path
) -> None:
    prefix = {"http": {"mount_prefix": "/api/"}}

    config = load_config(project(http={"disable_mcp": True}), prefix)
    alone = load_config(tmp_path / "none.json", {"graphs": {"a": "m:x"}, **prefix})

    assert (config.http.mount_prefix, config.http.disable_mcp) == ("/api", False)
    assert [*config.graphs, *alone.graphs] == ["agent", "a"]
    serde = {"serde": {"allowed_msgpack_modules": True}}
    aged = load_config(project(checkpointer=serde), {"checkpointer.ttl": {"default_ttl": 3}})
    assert aged.serde.msgpack is True
    assert aged.ttl.life == Life(ttl_minutes=3, strategy="delete")
    assert load_env(tmp_path / "none.json") == {}


def test_the_source_folder_of_a_dependency_that_is_a_package_is_imported_from(
    project: Project, tmp_path: Path
) -> None:
    (tmp_path / "library" / "src").mkdir(parents=True)
    (tmp_path / "library" / "pyproject.toml").touch()

    config = load_config(project(dependencies=["./library"]))

    assert config.dependencies == (tmp_path / "library", tmp_path / "library" / "src")


FACTORIES = {
    "a compiled graph": "graph = build().compile()",
    "a builder": "graph = build()",
    "a function": "def graph(): return build()",
    "an async function": "async def graph(): return build().compile()",
    "a function of the config": """
def graph(config):
    assert config["configurable"]["who"] == "ada"
    return build()""",
    "a function of anything": """
def graph(whatever):
    assert whatever["configurable"]["who"] == "ada"
    return build()""",
    "a function with annotations nobody can resolve": """
def graph(first: "Nowhere.ServerRuntime[Nothing]", second: "missing.RunnableConfig"):
    assert first.access_context == "threads.create_run"
    assert second["configurable"]["who"] == "ada"
    return build()""",
    "an async function of both": """
from langchain_core.runnables import RunnableConfig
from langgraph_sdk.runtime import ServerRuntime
async def graph(one: RunnableConfig, two: ServerRuntime[State]):
    assert one["configurable"]["who"] == "ada"
    assert two.store is not None
    return build()""",
    "a function with defaults of its own": """
def graph(config, flavour="sweet", *rest, **more):
    assert flavour == "sweet" and not rest and not more
    return build()""",
    "a context manager": """
from contextlib import contextmanager
@contextmanager
def graph(runtime):
    yield build()""",
    "an async context manager": """
from contextlib import asynccontextmanager
@asynccontextmanager
async def graph(config, /):
    yield build().compile()""",
    "a class that is a context manager": """
class graph:
    def __init__(self, config): pass
    async def __aenter__(self): return build()
    async def __aexit__(self, *exc_info): pass""",
}


@pytest.mark.parametrize("kind", FACTORIES)
async def test_a_graph_may_be(kind: str, project: Project) -> None:
    assert await _nodes(project(FACTORIES[kind])) == ["node"]


async def test_a_graph_may_be_in_a_module_of_a_dependency(project: Project, tmp_path: Path) -> None:
    package = tmp_path / "src" / "somewhere_else"
    package.mkdir(parents=True)
    (package / "inner.py").write_text(STATIC + "graph = build('inner')")
    path = project(graphs={"agent": "somewhere_else.inner:graph"}, dependencies=["./src"])
    assert await _nodes(path) == ["inner"]


async def test_graphs_of_one_file_share_the_module(project: Project) -> None:
    code = "graph = build()\nother = build()\ngraph.metadata = other.metadata = State"
    path = project(code, graphs={"agent": "./agents.py:graph", "b": "agents.py:other"})
    registry = await Registry.load(load_config(path))
    assert registry.graph_ids == ["agent", "b"]
    async with (
        registry.open("agent", CONFIG, checkpointer=None, store=None) as one,
        registry.open("b", CONFIG, checkpointer=None, store=None) as two,
    ):
        assert one.builder.state_schema is two.builder.state_schema  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise OSError('no disk')", r"OSError: no disk \(.*agents.py:\d+\)"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("def graph(:", "SyntaxError"),
        ("pass", "has no variable 'graph'"),
        ("graph = 'text'", "found str"),
        ("def graph(a, b, c): pass", "wants 'c'"),
    ],
)
async def test_a_graph_that_fails_is_named_and_the_others_are_served(
    project: Project, tmp_path: Path, code: str, reason: str
) -> None:
    (tmp_path / "fine.py").write_text(STATIC + "graph = build()")
    path = project(code, graphs={"bad": "./agents.py:graph", "agent": "./fine.py:graph"})
    registry = await Registry.load(load_config(path))
    assert registry.graph_ids == ["agent"]
    assert await _open(registry) == ["node"]
    with pytest.raises(InvalidGraphError, match=reason):
        await registry.schemas("bad")


#: Projects whose own packages have our names, and where that shows.
CLASHES = {
    "a module of its own": ("from graph.nodes import plan", "agents.py:1 imports `graph.nodes`"),
    "a module that is ours as well": ("import store", "agents.py:1 imports `store`"),
    "a package": ("from api import tools", "agents.py:1 imports `api`"),
    "in what it imports": ("import mine.tools", "tools.py:1 imports `store`"),
    "in what that imports of its package": ("from mine import flow", "__init__.py:3 imports `graph.nodes`"),
    "not before it runs": (
        "def plan(state):\n    from graph import nodes", "agents.py:2 imports `graph`"
    ),
}  # fmt: skip
#: And projects that have them and import no module of theirs by our names.
NO_CLASHES = {
    "nothing": "",
    "what is ours and not theirs": "from graph.attachments import Inflating",
    "if it is not there": "try:\n    import graph.nodes\nexcept ImportError:\n    pass",
    "for a type checker": (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from graph.nodes import plan"
    ),
}


@pytest.fixture
def clashing(tmp_path: Path, project: Project) -> Project:
    """A project with modules of our names, whose `agents.py` begins with this code."""
    files = {
        "graph/nodes.py": "def plan(): ...",
        "store.py": "connect = None",
        "api/__init__.py": "",
        "mine/__init__.py": "",
        "mine/tools.py": "import store",
        "mine/flow.py": "\n\nfrom .deep import reached",
        "mine/deep/__init__.py": "\n\nimport graph.nodes\nreached = None",
    }
    for name, code in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(code)

    def make(code: str, **config: Any) -> Path:
        path = project(**config)
        (tmp_path / "agents.py").write_text(f"{code}\n{STATIC}\ngraph = build()")
        return path

    return make


@pytest.mark.parametrize("kind", CLASHES)
async def test_a_graph_that_imports_a_module_of_its_own_by_our_name_is_told_what_to_do(
    clashing: Project, kind: str
) -> None:
    code, where = CLASHES[kind]
    registry = await Registry.load(load_config(clashing(code)))
    assert where in registry.failures["agent"]
    assert "of Threadwell, not " in registry.failures["agent"]
    assert "Rename yours" in registry.failures["agent"]
    assert "mine" not in sys.modules


async def test_a_graph_in_a_module_of_our_name_is_told_what_to_do(clashing: Project) -> None:
    path = clashing("", graphs={"agent": "graph.nodes:plan"})
    registry = await Registry.load(load_config(path))
    assert "langgraph.json names `graph.nodes`" in registry.failures["agent"]


@pytest.mark.parametrize("kind", NO_CLASHES)
async def test_a_project_with_our_names_that_does_not_import_by_them_is_served(
    clashing: Project, kind: str
) -> None:
    assert await _nodes(clashing(NO_CLASHES[kind])) == ["node"]


async def test_a_factory_that_makes_no_graph_fails_when_it_is_opened(project: Project) -> None:
    registry = await Registry.load(load_config(project("def graph(): return 7")))
    with pytest.raises(InvalidGraphError, match="found int"):
        await _open(registry)


async def test_a_failing_factory_fails_only_its_run(project: Project) -> None:
    registry = await Registry.load(load_config(project("def graph(): raise OSError('later')")))
    with pytest.raises(OSError, match="later"):
        await _open(registry)


async def test_a_context_manager_is_closed_after_its_use_and_sees_the_error(
    project: Project,
) -> None:
    code = """
from contextlib import asynccontextmanager
@asynccontextmanager
async def graph(config):
    try:
        yield build()
    except LookupError as error:
        config["configurable"]["seen"] = type(error).__name__
        raise
    finally:
        config["configurable"]["closed"] = True
"""
    registry = await Registry.load(load_config(project(code)))
    config: Any = {"configurable": {}}

    async def fail() -> None:
        async with registry.open("agent", config, checkpointer=None, store=None):
            assert config["configurable"] == {}
            raise LookupError

    with pytest.raises(LookupError):
        await fail()
    assert config["configurable"] == {"seen": "LookupError", "closed": True}


async def test_a_factory_is_told_who_uses_it_and_what_for(project: Project) -> None:
    code = """
def graph(runtime):
    for_run = runtime.execution_runtime
    return build("_".join([
        runtime.access_context.replace(".", "_"),
        str(runtime.user),
        type(runtime.store).__name__,
        str(for_run.context) if for_run else "read",
    ]))
"""
    registry = await Registry.load(load_config(project(code)))
    run = await _open(registry, user="ada", context="deep", store=InMemoryStore())
    assert run == ["threads_create_run_ada_InMemoryStore_deep"]
    assert await _open(registry, "threads.read") == ["threads_read_None_InMemoryStore_read"]
    drawn = await registry.drawable("agent")
    assert drawn["nodes"][1]["id"] == "assistants_read_None_InMemoryStore_read"


async def test_an_opened_graph_is_a_copy_with_saver_store_and_name(project: Project) -> None:
    registry = await Registry.load(load_config(project("graph = build().compile()")))
    saver, store = InMemorySaver(), InMemoryStore()
    async with registry.open("agent", CONFIG, checkpointer=saver, store=store) as graph:
        assert (graph.checkpointer, graph.store, graph.name) == (saver, store, "agent")
        assert await graph.ainvoke({"text": "x"}, CONFIG) == {"text": "node"}
        assert (await graph.aget_state(CONFIG)).values == {"text": "node"}
    async with registry.open("agent", CONFIG, checkpointer=None, store=None) as again:
        assert again is not graph
        assert (again.checkpointer, again.store) == (None, None)


async def test_an_unknown_graph_is_named(project: Project) -> None:
    registry = await Registry.load(load_config(project("graph = build()")))
    with pytest.raises(UnknownGraphError, match=r"Graph 'x' not found. Expected one of: \['agent'"):
        await registry.schemas("x")
    assert registry.entry("agent").name == "agent"


@pytest.fixture
async def samples(project: Project) -> Registry:
    graph_ids = ["chat", "nested_ask", "form", "functional", "sends"]
    graphs = {graph_id: f"{SAMPLES}:{graph_id}" for graph_id in graph_ids}
    registry = await Registry.load(load_config(project(graphs=graphs)))
    assert registry.failures == {}
    return registry


SETTINGS = {
    "description": "What a caller may choose.",
    "properties": {
        "language": {"default": "en", "title": "Language", "type": "string"},
        "temperature": {"default": 0.0, "title": "Temperature", "type": "number"},
    },
    "title": "Settings",
    "type": "object",
}


async def test_schemas_are_those_of_the_reference(samples: Registry) -> None:
    found = await samples.schemas("form")
    assert found["input_schema"]["properties"] == {
        "name": {"default": "nobody", "title": "Name", "type": "string"},
        "age": {"default": 0, "title": "Age", "type": "integer"},
    }
    assert found["state_schema"] == {
        "properties": {
            "name": {"default": None, "title": "Name", "type": "string"},
            "age": {"default": None, "title": "Age", "type": "integer"},
        },
        "title": "form_state",
        "type": "object",
    }
    assert found["config_schema"] == found["context_schema"] == SETTINGS
    assert await samples.schemas("form") is found


async def test_a_graph_without_context_has_an_empty_config_schema(samples: Registry) -> None:
    found = await samples.schemas("functional")
    assert found["config_schema"] == {}
    assert found["context_schema"] is None
    assert found["input_schema"]["type"] == "array"
    assert list(found["state_schema"]["properties"]) == ["__end__"]


async def test_a_type_without_json_schema_gives_null(project: Project) -> None:
    code = """
graph = StateGraph(State, context_schema=int).add_node("n", lambda state: {}).add_edge(START, "n")
"""
    registry = await Registry.load(load_config(project(code)))
    assert registry.failures == {}
    assert (await registry.schemas("agent"))["context_schema"] is None


async def test_a_drawing_is_that_of_the_reference(samples: Registry) -> None:
    flat, deep = await samples.drawable("nested_ask"), await samples.drawable("nested_ask", xray=1)
    assert flat["nodes"][1] == {"id": "outer", "type": "runnable", "data": {"name": "outer"}}
    assert flat["nodes"][-1] == {"id": "__end__"}
    assert flat["edges"][0] == {"source": "__start__", "target": "outer"}
    assert [node["id"] for node in deep["nodes"]] == [
        "__start__",
        "second",
        "__end__",
        "outer:first",
        "outer:ask",
    ]
    conditional = [e for e in (await samples.drawable("sends"))["edges"] if e.get("conditional")]
    assert conditional == [{"source": "plan", "target": "part", "conditional": True}]


async def test_subgraphs_are_found_by_namespace(samples: Registry) -> None:
    found = await samples.subgraphs("nested_ask")
    assert list(found) == ["outer"]
    assert found["outer"]["state_schema"]["title"] == "LangGraphState"
    assert await samples.subgraphs("nested_ask", "outer", recurse=True) == found
    assert await samples.subgraphs("nested_ask", "nowhere") == {}


async def test_the_channel_of_the_messages_is_known(samples: Registry, project: Project) -> None:
    assert samples.messages_channel("chat") == "messages"
    assert samples.messages_channel("sends") is None
    code = """
from typing import Annotated
from langgraph.graph import add_messages
class Talk(TypedDict):
    talk: Annotated[list, add_messages]
graph = StateGraph(Talk).add_node("n", lambda state: {}).add_edge(START, "n")
def make(): return build()
"""
    path = project(code, graphs={"talk": "./agents.py:graph", "made": "./agents.py:make"})
    registry = await Registry.load(load_config(path))
    assert registry.messages_channel("talk") == "talk"
    assert registry.messages_channel("made") == "messages"
