"""
The event-streaming protocol as a view of a thread's log, https://github.com/langchain-ai/agent-protocol.

Every event of the log means none, one or several of the protocol. Where each of them stands follows
from its place in the log alone: whoever reads the log, from whichever replica and however often,
tells of the same event under the same `event_id` and `seq`, and `since` is such a `seq`. A run that
was started for other clients has events here too: what its stream modes give.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from graph.encode import dumps
from graph.protocol_events import (
    ASKS,
    CHANNELS,
    ENDS,
    GAP,
    SAYS,
    STARTS,
    Namespace,
    Numbering,
    ProtocolEvent,
)
from graph.protocol_messages import Speakers
from graph.protocol_run import BEGIN, PREFIX, REFUSED, checkpoint, request
from graph.stream import ASIDE
from store.events import Event
from store.models import JsonObject, Thread

_INTERRUPT = "__interrupt__"
_MARK = b'"__interrupt__"'


@dataclass(slots=True)
class _RunView:
    """What is known of the run whose events are being read."""

    run_id: str = ""
    status: str = "running"
    #: It logs what this protocol alone has.
    is_native: bool = False
    interrupted: bool = False
    asked: set[str] = field(default_factory=set)
    error: dict[str, Any] | None = None
    refusal: dict[str, Any] = field(default_factory=dict)
    #: Its subgraphs, with the status each is in; in the order in which they began.
    subgraphs: dict[Namespace, str] = field(default_factory=dict)
    speakers: Speakers = field(default_factory=Speakers)


class ProtocolView:
    """
    Makes events of the protocol of those of one thread's log, which it is given in order.

    It begins with an epoch: what it knows of a run, it knows from the run's events.

    Args:
        channels: Of which channels; the others cost nothing.
    """

    def __init__(self, channels: Sequence[str] = CHANNELS) -> None:
        self._channels = {one.partition(":")[0] for one in channels}
        self._run = _RunView()
        self._graph_id = ""
        self.numbering = Numbering()
        #: The graphs of runs, by run, as far as they are known; else it is the thread's.
        self.graphs: dict[str, str] = {}

    def know(self, thread: Thread) -> None:
        """Take note of whose log it is: before anything is read, and as often as one likes."""
        self._graph_id = str(thread.metadata.get("graph_id") or "")
        self.numbering = Numbering.of(thread)

    def read(self, event: Event) -> list[ProtocolEvent]:
        """What an event of the log means."""
        if not event.run_id or event.name == ASIDE:
            return []
        name, *segments = event.name.split("|")
        namespace = tuple(segments)
        if name == "metadata" or event.run_id != self._run.run_id:
            # One run at a time: of those before it nothing more comes.
            self.graphs.pop(self._run.run_id if event.run_id != self._run.run_id else "", None)
            # Only the events of such a run say when they were logged: one whose beginning the log
            # has lost is known by that.
            self._run = _RunView(event.run_id, is_native=bool(event.at))
        if name == "metadata":
            return [self._lifecycle(event, SAYS, (), {"event": "running"})]
        if name == "end":
            return list(self._end(event))
        if name.startswith(PREFIX):
            return self._native(event, name, namespace)
        return list(self._shared(event, name, namespace))

    def cancelled(self, run_id: str) -> ProtocolEvent:
        """The end of a run that never began."""
        data = {"event": "interrupted", "graph_name": self._graph_id}
        return ProtocolEvent(0, f"synth:{run_id}:queued", "lifecycle", (), dumps(data), 0)

    @property
    def tree(self) -> JsonObject:
        """The run that was read last: itself, and its subgraphs within it."""
        root = _node((), self._run.status, self._graph_name)
        nodes: dict[Namespace, JsonObject] = {(): root}
        for namespace, status in self._run.subgraphs.items():
            node = _node(namespace, status, namespace[-1].partition(":")[0])
            nodes[namespace] = node
            nodes.get(namespace[:-1], root)["children"].append(node)
        return root

    @property
    def _graph_name(self) -> str:
        return self.graphs.get(self._run.run_id, self._graph_id)

    @property
    def statuses(self) -> list[JsonObject]:
        """The same as a list."""
        every = {(): self._run.status, **self._run.subgraphs}
        return [{"namespace": name, "status": status} for name, status in every.items()]

    def _native(self, event: Event, name: str, namespace: Namespace) -> list[ProtocolEvent]:
        """What goes out as it was logged."""
        run, method = self._run, name.removeprefix(PREFIX)
        run.is_native = True
        if name == BEGIN:
            return []
        if name == REFUSED:
            run.refusal = orjson.loads(event.data)
            return []
        if method == "lifecycle":
            run.subgraphs[namespace] = orjson.loads(event.data)["event"]
        if method == "input.requested":
            run.interrupted = True
        channel = "input" if method.startswith("input.") else method
        if channel not in self._channels:
            return []
        named = orjson.loads(event.data)["name"] if method == "custom" else ""
        return [self._event(event, SAYS, method, namespace, event.data, name=named)]

    def _shared(self, event: Event, name: str, namespace: Namespace) -> Iterator[ProtocolEvent]:
        """What all clients read, in the form that others know."""
        run = self._run
        if name == "error":
            run.error = orjson.loads(event.data)
            return
        data, asked = event.data, None
        if name in ("values", "updates"):
            data, asked = _without_interrupts(data)
            run.interrupted = run.interrupted or (asked is not None and not namespace)
        if not run.is_native:
            yield from self._begun(event, namespace)
        if name in self._channels and data:
            yield from self._said(event, name, namespace, data)
        if not run.is_native:
            yield from self._asked(event, namespace, asked or [])
            yield from self._ended(event, name, namespace)

    def _said(
        self, event: Event, name: str, namespace: Namespace, data: bytes
    ) -> Iterator[ProtocolEvent]:
        if name == "updates":
            nodes = orjson.loads(data).items()
            found = [("", "", dumps({"node": node, "values": values})) for node, values in nodes]
        elif name == "messages":
            heard = self._run.speakers.hear(namespace, orjson.loads(data))
            found = [("", node, dumps(told)) for node, told in heard]
        elif name == "checkpoints":
            found = [("", "", dumps(checkpoint(orjson.loads(data))))]
        else:
            named, data = _custom(data) if name == "custom" else ("", data)
            found = [(named, "", data)]
        for number, (named, node, told) in enumerate(found):
            part = min(SAYS + number, ASKS - 1)
            yield self._event(event, part, name, namespace, told, name=named, node=node)

    def _asked(
        self, event: Event, namespace: Namespace, asked: list[Any]
    ) -> Iterator[ProtocolEvent]:
        new = [one for one in asked if one.get("id") not in self._run.asked]
        for number, one in enumerate(new):
            self._run.asked.add(one.get("id"))
            place = min(ASKS + number, ENDS - 1)
            yield self._event(event, place, "input.requested", namespace, dumps(request(one)))

    def _begun(self, event: Event, namespace: Namespace) -> Iterator[ProtocolEvent]:
        """The subgraphs around an event that nothing was heard of before."""
        for depth in range(1, len(namespace) + 1):
            inner = namespace[:depth]
            if inner not in self._run.subgraphs:
                node, _, task_id = inner[-1].partition(":")
                data = {"event": "started", "graph_name": node, "trigger_call_id": task_id}
                yield self._lifecycle(event, min(STARTS + depth, SAYS - 1), inner, data)

    def _ended(self, event: Event, name: str, namespace: Namespace) -> Iterator[ProtocolEvent]:
        """The subgraphs that a task was, which has come to its end."""
        if name != "tasks" or not self._run.subgraphs:
            return
        task = orjson.loads(event.data)
        if "result" not in task:
            return
        for number, (inner, status) in enumerate(list(self._run.subgraphs.items())):
            if status == "started" and inner[:-1] == namespace and _is_of(inner, task):
                data = {"event": _outcome(task), "graph_name": inner[-1].partition(":")[0]}
                if task.get("error"):
                    data["error"] = str(task["error"])
                yield self._lifecycle(event, min(ENDS + number, GAP - 1), inner, data)

    def _end(self, event: Event) -> Iterator[ProtocolEvent]:
        """The end of a run, and of whatever it left open."""
        run, status = self._run, orjson.loads(event.data)["status"]
        came_to = "completed"
        if status in ("error", "timeout"):
            came_to = "failed"
        elif status == "interrupted" or run.interrupted:
            came_to = "interrupted"
        heard = run.speakers.end() if "messages" in self._channels else []
        for number, (namespace, node, data) in enumerate(heard):
            place = min(SAYS + number, ASKS - 1)
            yield self._event(event, place, "messages", namespace, dumps(data), node=node)
        left = [inner for inner, now in run.subgraphs.items() if now == "started"]
        for number, inner in enumerate(reversed(left)):
            data = {"event": came_to, "graph_name": inner[-1].partition(":")[0]}
            yield self._lifecycle(event, min(ENDS + number, GAP - 2), inner, data)
        data = {"event": came_to}
        if came_to == "failed":
            data |= {"error": (run.error or {}).get("message", ""), **run.refusal}
        yield self._lifecycle(event, GAP - 1, (), data)

    def _lifecycle(
        self, event: Event, part: int, namespace: Namespace, data: dict[str, Any]
    ) -> ProtocolEvent:
        if namespace:
            self._run.subgraphs[namespace] = data["event"]
        else:
            self._run.status = data["event"]
            data = {**data, "graph_name": name} if (name := self._graph_name) else data
        return self._event(event, part, "lifecycle", namespace, dumps(data))

    def _event(
        self,
        event: Event,
        part: int,
        method: str,
        namespace: Namespace,
        data: bytes,
        **more: str,
    ) -> ProtocolEvent:
        event_id = f"{event.id}.{part}"
        if method == "lifecycle" or method.startswith("input."):
            # The form that clients read the run's id from.
            event_id = f"synth:{event.run_id}:{event_id}"
        return ProtocolEvent(
            self.numbering.seq(event.position, part),
            event_id,
            method,
            namespace,
            data,
            event.at,
            **more,
        )


def _node(namespace: Namespace, status: str, graph_name: str) -> JsonObject:
    return {"namespace": namespace, "status": status, "graph_name": graph_name, "children": []}


def _without_interrupts(data: bytes) -> tuple[bytes, list[Any] | None]:
    """Values or updates without what is asked beside them; and that, None if nothing is."""
    if _MARK not in data:
        return data, None
    content = orjson.loads(data)
    if not isinstance(content, dict) or _INTERRUPT not in content:
        return data, None
    asked = content.pop(_INTERRUPT) or []
    return dumps(content) if content else b"", asked


def _custom(data: bytes) -> tuple[str, bytes]:
    """What a node wrote, by name if it says one."""
    payload = orjson.loads(data)
    name = payload.get("name") if isinstance(payload, dict) else None
    if not isinstance(name, str) or not name:
        return "", b'{"payload":%b}' % data
    return name, dumps({"name": name, "payload": payload.get("payload", payload)})


def _is_of(namespace: Namespace, task: dict[str, Any]) -> bool:
    return namespace[-1].partition(":")[2] == task.get("id")


def _outcome(task: dict[str, Any]) -> str:
    if task.get("interrupts"):
        return "interrupted"
    return "failed" if task.get("error") else "completed"
