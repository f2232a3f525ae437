"""What differs everywhere and on purpose: it is taken out of both servers' answers."""

from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from tests.differential.talk import Exchange


@dataclass(frozen=True)
class Rule:
    """A difference that no case tells again; its words go into docs/compatibility.md."""

    reference: str
    here: str
    why: str
    apply: Callable[[Exchange], Exchange]


def _words_of_errors(exchange: Exchange) -> Exchange:
    if exchange.get("status", 0) >= HTTPStatus.BAD_REQUEST:
        return {"ask": exchange["ask"], "status": exchange["status"]}
    body = exchange.get("body")
    if isinstance(body, dict) and "jsonrpc" in body and isinstance(body.get("error"), dict):
        error = {key: body["error"][key] for key in body["error"] if key != "message"}
        return {**exchange, "body": {**body, "error": error}}
    return exchange


def _type_of_nothing(exchange: Exchange) -> Exchange:
    headers = dict(exchange.get("headers", {}))
    if exchange.get("body") == "":
        headers.pop("content-type", None)
    return {**exchange, "headers": headers}


#: What the reference's own saver adds to what LangGraph keeps.
_MORE_METADATA = frozenset(
    (
        *("langgraph_api_url", "langgraph_api_version", "langgraph_host", "langgraph_plan"),
        *("langgraph_request_id", "langgraph_version", "thread_id", "checkpoint_map"),
        *("checkpoint_ns", "langgraph_checkpoint_ns", "langgraph_node", "langgraph_path"),
        *("langgraph_step", "langgraph_triggers"),
    )
)


def _metadata_of_checkpoints(value: dict[str, Any]) -> dict[str, Any]:
    if "source" in value and "step" in value:
        return {key: value[key] for key in value if key not in _MORE_METADATA}
    return value


#: What the reference puts into runs for itself.
_INSIDES = frozenset(
    (
        *("__after_seconds__", "__request_start_time_ms__", "__pregel_node_finished"),
        *("__context_provided__", "langgraph_api_url", "langgraph_api_version"),
        *("langgraph_host", "langgraph_plan", "langgraph_version", "langsmith_session_name"),
    )
)


def _insides_of_runs(value: dict[str, Any]) -> dict[str, Any]:
    shown = {key: value[key] for key in value if key not in _INSIDES}
    metadata = shown.get("metadata")
    if "configurable" in shown and isinstance(metadata, dict):
        shown["metadata"] = {key: metadata[key] for key in metadata if key != "run_attempt"}
    return shown


def _fields_of_threads(value: dict[str, Any]) -> dict[str, Any]:
    if "state_updated_at" not in value or "thread_id" not in value or "values" not in value:
        return value
    filled = {"error": None, "interrupts": {}, **value}
    if filled.get("config") == {"configurable": {}}:
        filled["config"] = {}
    return filled


def _ids_of_events(value: dict[str, Any]) -> dict[str, Any]:
    if "event" in value and "data" in value and value.get("id") == "<event id>":
        return {key: value[key] for key in value if key != "id"}
    return value


def _numbers_of_protocol_events(value: dict[str, Any]) -> dict[str, Any]:
    data = value.get("data")
    if not isinstance(data, dict) or not {"seq", "event_id", "method"} <= data.keys():
        return value
    shown = {key: data[key] for key in data if key not in ("seq", "event_id")}
    return {"event": value["event"], "data": shown}


def _within(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Exchange], Exchange]:
    """A rule for every object within an answer."""

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return change({key: walk(item) for key, item in value.items()})
        return [walk(item) for item in value] if isinstance(value, list) else value

    return lambda exchange: {key: walk(value) for key, value in exchange.items()}


RULES = (
    Rule(
        'an error is `{"detail"}`, `{"error"}` or plain text',
        'an error is `{"detail", "code"}`, in words of our own',
        "words are for people; programs go by the status and the code",
        _words_of_errors,
    ),
    Rule(
        "204 has no content type",
        "some have one",
        "there is nothing it would tell of",
        _type_of_nothing,
    ),
    Rule(
        "a checkpoint's metadata names the server and the request that made it",
        "it has what LangGraph and the caller put there",
        "a host and a version do not belong to a conversation; a thread's id is beside it",
        _within(_metadata_of_checkpoints),
    ),
    Rule(
        "the config of runs, tasks and checkpoints names the server, its plan and its hosts",
        "it has what the contract names",
        "no client reads them",
        _within(_insides_of_runs),
    ),
    Rule(
        'a thread without a run has no `error` and `interrupts`; its config is `{"configurable": {}}`',
        "every thread has every field; a config of nothing is `{}`",
        "a client that reads them needs no second form",
        _within(_fields_of_threads),
    ),
    Rule(
        "events have ids with `stream_resumable` only",
        "every event has an id",
        "every stream can be resumed here",
        _within(_ids_of_events),
    ),
    Rule(
        "`seq` of the v2 protocol counts 1, 2, 3 for each connection; `event_id` is made of words",
        "`seq` rises, with gaps, and is the same for everyone; `event_id` is the event's place",
        "whoever comes back, to any server, says by `since` where",
        _within(_numbers_of_protocol_events),
    ),
)


def without_rules(exchanges: list[Exchange]) -> list[Any]:
    """The exchanges without what differs everywhere."""
    for rule in RULES:
        exchanges = [rule.apply(exchange) for exchange in exchanges]
    return exchanges
