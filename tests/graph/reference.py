"""
What the reference server answers, recorded: `python -m tests.graph.reference URL` asks anew.

The server at URL (`langgraph dev`) must serve the graphs of `sample_graphs.py` under their own
names. Ids and times are numbered in order of appearance, so equal stays equal and the
rest is compared to the byte.
"""

import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import orjson

RECORD = Path(__file__).with_name("reference.json")

MODES = (
    "values",
    "messages",
    "messages-tuple",
    "tasks",
    "checkpoints",
    "updates",
    "events",
    "debug",
    "custom",
)
ALL_MODES = [mode for mode in MODES if mode not in ("messages", "events")]


@dataclass(frozen=True)
class Case:
    """A conversation with one graph: what is asked, not what is answered."""

    graph_id: str
    turns: list[dict[str, Any]]
    options: dict[str, Any] = field(default_factory=dict)
    stateless: bool = False


def _say(text: str) -> dict[str, Any]:
    return {"input": {"messages": [{"role": "user", "content": text, "id": "question"}]}}


def cases() -> dict[str, Case]:
    """Every case by a name that says what it is."""
    hello, sum_ = [_say("hello"), _say("again")], [_say("add 2 3")]
    note: list[dict[str, Any]] = [{"input": {"text": "ab", "log": ["in"]}}]
    resumed = [*note, {"command": {"resume": "yes"}}]
    found: dict[str, Case] = {}
    for mode in MODES:
        wanted = {"stream_mode": [mode]}
        for graph_id, turns in (("chat", hello), ("tools", sum_), ("ask", resumed)):
            found[f"{graph_id} {mode}"] = Case(graph_id, turns, wanted)
        for graph_id, turns in (("nested", hello[:1]), ("nested_ask", resumed)):
            for subgraphs in (False, True):
                name = f"{graph_id} {mode}{' with subgraphs' if subgraphs else ''}"
                options = {**wanted, "stream_subgraphs": subgraphs}
                found[name] = Case(graph_id, turns, options)
    for graph_id in ("custom", "sends", "command", "boom", "steps", "nested_ask"):
        options = {"stream_mode": ALL_MODES, "stream_subgraphs": True}
        found[f"{graph_id} all"] = Case(graph_id, note, options)
        found[f"{graph_id} all without a thread"] = Case(graph_id, note, options, stateless=True)
    # The reference encodes an event late: a tool's message may have its id by then, or not.
    del found["tools events"]
    return found | _pauses(note) | _rest(hello, note)


def _pauses(note: list[dict[str, Any]]) -> dict[str, Case]:
    found = {}
    pauses: list[dict[str, Any]] = [
        {"interrupt_before": ["second"]},
        {"interrupt_after": ["first"]},
        {"interrupt_before": "*"},
    ]
    for pause in pauses:
        for modes in (["values"], ["updates"], ALL_MODES, ["messages-tuple"], ["events"]):
            turns = [{**note[0], **pause}, {"input": None}]
            name = f"steps {pause} {modes if len(modes) == 1 else 'all'}"
            found[name] = Case("steps", turns, {"stream_mode": modes})
    return found


def _rest(hello: list[dict[str, Any]], note: list[dict[str, Any]]) -> dict[str, Case]:
    both = ["messages", "messages-tuple"]
    found = {
        "chat both messages modes": Case("chat", hello, {"stream_mode": both}),
        "chat the default mode": Case("chat", hello),
        "chat a string for a mode": Case("chat", hello, {"stream_mode": "updates"}),
        "chat messages and values": Case(
            "chat", hello, {"stream_mode": ["values", "messages", "updates"]}
        ),
        "nested messages and values with subgraphs": Case(
            "nested",
            hello[:1],
            {"stream_mode": ["values", "messages"], "stream_subgraphs": True},
        ),
        "nested everything with subgraphs": Case(
            "nested",
            hello[:1],
            {"stream_mode": [*ALL_MODES, "events"], "stream_subgraphs": True},
        ),
        "tools everything": Case("tools", [_say("add 2 3")], {"stream_mode": ALL_MODES}),
        "chat values and events": Case("chat", hello[:1], {"stream_mode": ["values", "events"]}),
        "steps on exit": Case("steps", note, {"stream_mode": ALL_MODES, "durability": "exit"}),
        "functional all": Case(
            "functional", [{"input": [1, 2]}], {"stream_mode": ALL_MODES, "stream_subgraphs": True}
        ),
        "steps without input": Case("steps", [{"input": None}], {"stream_mode": ALL_MODES}),
        "steps bad input": Case("steps", [{"input": [1]}], {"stream_mode": ALL_MODES}),
        "steps recursion": Case(
            "steps", [{**note[0], "config": {"recursion_limit": 1}}], {"stream_mode": ALL_MODES}
        ),
        "steps resumed with nothing to resume": Case(
            "steps", [{"command": {"goto": "second"}}], {"stream_mode": ALL_MODES}
        ),
    }
    for text in ("house", "key"):
        turns = [{"input": {"text": text}}]
        for mode in ("values", "events"):
            found[f"boom {text} {mode}"] = Case("boom", turns, {"stream_mode": [mode]})
    for mode in ("messages", "messages-tuple"):
        found[f"whole {mode}"] = Case("whole", hello[:1], {"stream_mode": [mode]})
    return found


# What the server, not the graph, puts into a run's metadata and configurable.
_SERVER_KEYS = frozenset(
    (
        *("created_by", "run_attempt", "langgraph_version", "langgraph_api_version"),
        *("langgraph_plan", "langgraph_host", "langgraph_api_url", "langgraph_request_id"),
        *("langgraph_auth_user", "langgraph_auth_user_id", "langgraph_auth_permissions"),
        *("__request_start_time_ms__", "__after_seconds__", "user_id"),
        *("graph_id", "assistant_id", "run_id"),
    )
)
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|\b[0-9a-f]{32}\b")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+(\+00:00|Z)")


def normalise(events: list[tuple[str, bytes]]) -> list[str]:
    """One comparable line for each event."""
    lines = [
        f"{name} {json.dumps(_without_server(orjson.loads(data)), ensure_ascii=False)}"
        for name, data in events
    ]
    numbers: dict[str, str] = {}
    for index, line in enumerate(lines):
        timeless = _TIME.sub("<time>", line)
        lines[index] = _ID.sub(
            lambda found: numbers.setdefault(found[0], f"<{len(numbers) + 1}>"), timeless
        )
    return lines


def _without_server(data: Any) -> Any:
    if isinstance(data, dict):
        if "source" in data and "step" in data:
            # A checkpoint's metadata: the reference's own saver keeps more than LangGraph's.
            return {key: data[key] for key in ("source", "step", "parents")}
        return {k: _without_server(v) for k, v in data.items() if k not in _SERVER_KEYS}
    if isinstance(data, list):
        return [_without_server(item) for item in data]
    return data


def _ask(http: httpx.Client, case: Case) -> list[list[str]]:
    path = "/runs/stream"
    if not case.stateless:
        path = f"/threads/{http.post('/threads', json={}).json()['thread_id']}/runs/stream"
    answers = []
    for turn in case.turns:
        body = {"assistant_id": case.graph_id, **case.options, **turn}
        answer = http.post(path, json=body).raise_for_status().text
        answers.append(normalise(parse(answer)[1:]))
    return answers


def parse(text: str) -> list[tuple[str, bytes]]:
    """The (name, data) pairs of a stream of server-sent events."""
    events = []
    for block in text.split("\r\n\r\n"):
        fields = dict(
            line.split(": ", 1) for line in block.split("\r\n") if not line.startswith(":") and line
        )
        if "event" in fields:
            events.append((fields["event"], fields["data"].encode()))
    return events


def _record(url: str) -> None:
    with httpx.Client(base_url=url, timeout=30) as http:
        answers = {name: _ask(http, case) for name, case in cases().items()}
    RECORD.write_text(json.dumps(answers, indent=0, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    _record(sys.argv[1])
