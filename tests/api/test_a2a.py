"""A2A by the official client in both generations, and what it does not show of the protocol."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import httpx
import pytest
from a2a.client import ClientConfig, ClientFactory
from a2a.client.card_resolver import A2ACardResolver
from a2a.types import a2a_pb2 as pb
from google.protobuf.json_format import MessageToDict

from api.app import create_app
from api.bootstrap import Services
from graph.requests import system_assistant_id
from tests.serving import serving

TALK, ASK = "chat", "ask_user"


@pytest.fixture
async def agents(url: str) -> AsyncIterator[Any]:
    """The official client of a graph, by the card it finds, in a generation."""
    clients: list[Any] = []

    async with httpx.AsyncClient(timeout=30) as http:

        async def find(graph_id: str, version: str, *, streaming: bool = True) -> Any:
            base = f"{url}/a2a/{system_assistant_id(graph_id)}"
            card = await A2ACardResolver(http, base).get_agent_card()
            kept = [i for i in card.supported_interfaces if i.protocol_version == version]
            del card.supported_interfaces[:]
            card.supported_interfaces.extend(kept)
            config = ClientConfig(httpx_client=http, streaming=streaming)
            clients.append(ClientFactory(config).create(card))
            return clients[-1]

        yield find


def _message(text: str, **more: str) -> pb.SendMessageRequest:
    part = pb.Part(text=text)
    message = pb.Message(role=pb.ROLE_USER, message_id=str(uuid4()), parts=[part], **more)
    return pb.SendMessageRequest(message=message)


async def _all(events: AsyncIterator[Any]) -> list[dict[str, Any]]:
    return [MessageToDict(event) async for event in events]


@pytest.mark.parametrize("version", ["1.0", "0.3"])
async def test_the_official_client_talks_to_an_agent(agents: Any, version: str) -> None:
    client = await agents(TALK, version)

    told = await _all(client.send_message(_message("hello")))

    task = told[0]["task"]
    assert task["status"]["state"] == "TASK_STATE_SUBMITTED"
    assert any("message" in event.get("statusUpdate", {}).get("status", {}) for event in told)
    (made,) = [event["artifactUpdate"] for event in told if "artifactUpdate" in event]
    assert told[-1]["statusUpdate"]["status"]["state"] == "TASK_STATE_COMPLETED"
    assert made["artifact"]["parts"][0]["text"]
    found = MessageToDict(await client.get_task(pb.GetTaskRequest(id=task["id"])))
    assert found["status"]["state"] == "TASK_STATE_COMPLETED"
    assert found["artifacts"] == [made["artifact"]]
    assert [m["role"] for m in found["history"]] == ["ROLE_USER", "ROLE_AGENT"]
    assert {m["taskId"] for m in found["history"]} == {task["id"]}


@pytest.mark.parametrize("version", ["1.0", "0.3"])
async def test_a_task_that_asks_goes_on_with_the_answer(agents: Any, version: str) -> None:
    client = await agents(ASK, version, streaming=False)

    (asked,) = await _all(client.send_message(_message("book a flight")))
    task = asked["task"]
    assert task["status"]["state"] == "TASK_STATE_INPUT_REQUIRED"
    assert task["artifacts"][0]["parts"][0]["data"]["value"] == {"sure?": "book a flight"}
    open_task = MessageToDict(await client.get_task(pb.GetTaskRequest(id=task["id"])))
    assert open_task["artifacts"] == task["artifacts"]

    (answered,) = await _all(client.send_message(_message("yes", task_id=task["id"])))
    done = answered["task"]
    assert (done["id"], done["contextId"]) == (task["id"], task["contextId"])
    assert done["status"]["state"] == "TASK_STATE_COMPLETED"
    assert done["artifacts"][0]["parts"][0]["text"] == "You said yes"
    assert {m["taskId"] for m in done["history"]} == {task["id"]}
    with pytest.raises(Exception, match="terminal task"):
        await _all(client.send_message(_message("again", task_id=task["id"])))


def _said(text: str, **more: Any) -> dict[str, Any]:
    parts = [{"kind": "text", "text": text}]
    return {"role": "user", "parts": parts, "messageId": str(uuid4()), **more}


@pytest.fixture
def call(http: httpx.AsyncClient) -> Any:
    """Calls a method of an agent; its result, or the code of its error."""

    async def ask(method: str, params: Any = None, *, graph_id: str = TALK, **headers: str) -> Any:
        body = {"jsonrpc": "2.0", "id": "a", "method": method, "params": params}
        answer = await http.post(f"/a2a/{graph_id}", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        content = answer.json()
        assert (content["jsonrpc"], content["id"]) == ("2.0", "a")
        return content["result"] if "result" in content else content["error"]["code"]

    return ask


async def test_each_generation_is_answered_in_its_own_words(call: Any) -> None:
    old = await call("message/send", {"message": _said("hello")})
    new = (await call("SendMessage", {"message": _said("hello")}))["task"]

    assert (old["kind"], old["status"]["state"]) == ("task", "completed")
    assert old["history"][0]["role"] == "user"
    assert old["history"][0]["parts"] == [{"kind": "text", "text": "hello"}]
    assert old["id"].split(":")[0] == old["contextId"]
    assert ("kind" in new, new["status"]["state"]) == (False, "TASK_STATE_COMPLETED")
    assert new["history"][0]["role"] == "ROLE_USER"
    assert new["history"][0]["parts"] == [{"text": "hello"}]
    assert (await call("GetTask", {"id": old["id"]}))["id"] == old["id"]
    assert (await call("tasks/get", {"id": new["id"]}))["kind"] == "task"


async def test_a_context_goes_on_and_shows_as_much_as_is_wanted(call: Any) -> None:
    first = await call("message/send", {"message": _said("one")})
    context = first["contextId"]
    second = await call("message/send", {"message": _said("two", contextId=context)})
    scope = {"LangGraph-A2A-History-Scope": "task"}

    assert [m["taskId"] for m in second["history"]] == [first["id"]] * 2 + [second["id"]] * 2
    own = await call("tasks/get", {"id": second["id"]}, **scope)
    assert [m["role"] for m in own["history"]] == ["user", "agent"]
    assert own["history"][0]["parts"][0]["text"] == "two"
    last = await call("tasks/get", {"id": second["id"], "historyLength": 1})
    assert [m["role"] for m in last["history"]] == ["agent"]
    assert (await call("tasks/get", {"id": second["id"], "historyLength": 0}))["history"] == []

    page = await call("ListTasks", {"contextId": context, "pageSize": 1})
    rest = await call("ListTasks", {"contextId": context, "pageToken": page["nextPageToken"]})
    assert [t["id"] for t in page["tasks"] + rest["tasks"]] == [second["id"], first["id"]]
    assert (page["totalSize"], rest["nextPageToken"]) == (2, "")
    for status, count in (("COMPLETED", 2), ("FAILED", 0), ("INPUT_REQUIRED", 0)):
        params = {"contextId": context, "status": f"TASK_STATE_{status}"}
        assert (await call("ListTasks", params))["totalSize"] == count, status
    other = await call("ListTasks", {"contextId": context}, graph_id=ASK)
    assert other["tasks"] == []
    assert await call("tasks/get", {"id": first["id"]}, graph_id=ASK) == -32001


async def test_a_task_at_work_is_canceled(call: Any) -> None:
    sent = {"message": _said("wait"), "configuration": {"blocking": False}}
    begun = await call("message/send", sent, graph_id="endless")
    at_work = await call("tasks/get", {"id": begun["id"]}, graph_id="endless")
    more = {"message": _said("more", taskId=begun["id"])}

    assert begun["status"]["state"] == "submitted"
    assert at_work["status"]["state"] in ("submitted", "working")
    assert await call("message/send", more, graph_id="endless") == -32004
    canceled = await call("CancelTask", {"id": begun["id"]}, graph_id="endless")
    assert canceled["status"]["state"] == "TASK_STATE_CANCELED"
    assert await call("tasks/cancel", {"id": begun["id"]}, graph_id="endless") == -32002


async def test_a_run_that_fails_is_a_task_that_failed(call: Any) -> None:
    data = {"role": "user", "parts": [{"kind": "data", "data": {"log": []}}], "messageId": "m"}

    failed = await call("message/send", {"message": data}, graph_id="boom")
    made = await call("message/send", {"message": data}, graph_id="steps")

    assert failed["status"]["state"] == "failed"
    assert failed["status"]["message"]["parts"][0]["text"] == "ValueError: boom!"
    assert made["artifacts"][0]["parts"][0]["data"]["log"] != []


async def test_wrong_calls_are_errors_of_the_protocol(call: Any, http: httpx.AsyncClient) -> None:
    unseen = f"{uuid4()}:{uuid4()}"
    wrong: list[tuple[str, Any, int]] = [
        ("nothing", {}, -32601),
        ("message/send", None, -32602),
        ("message/send", {"message": {"role": "user", "parts": []}}, -32602),
        ("message/send", {"message": {"role": "user", "parts": [{"kind": "file"}]}}, -32602),
        ("message/send", {"message": _said("hi", contextId="?")}, -32602),
        ("message/send", {"message": _said("hi", taskId=unseen)}, -32001),
        ("tasks/get", {}, -32602),
        ("tasks/get", {"id": "nothing"}, -32001),
        ("tasks/get", {"id": unseen}, -32001),
        ("tasks/cancel", {"id": unseen}, -32001),
        ("ListTasks", {"pageSize": 0}, -32602),
        ("ListTasks", {"status": "TASK_STATE_DONE"}, -32602),
        ("CreateTaskPushNotificationConfig", {}, -32003),
        ("SubscribeToTask", {"id": unseen}, -32004),
    ]
    for method, params, code in wrong:
        assert await call(method, params) == code, (method, params)
    assert await call("message/send", {"message": _said("hi")}, graph_id="steps") == -32602
    assert await call("message/send", {"message": _said("hi")}, graph_id="nobody") == -32602
    assert await call("message/send", {"message": _said("hi")}, graph_id=str(uuid4())) == -32602
    bad_scope = {"LangGraph-A2A-History-Scope": "all"}
    assert await call("tasks/get", {"id": unseen}, **bad_scope) == -32602
    for content, code in ((b"{", -32700), (b"[]", -32600), (b'{"id": 1}', -32600)):
        refused = await http.post("/a2a/chat", content=content)
        assert (refused.status_code, refused.json()["error"]["code"]) == (200, code)
    assert (await http.delete("/a2a/chat")).status_code == 405


async def test_cards_are_found_in_three_places(
    http: httpx.AsyncClient, services: Services, url: str
) -> None:
    chat = system_assistant_id("chat")
    cards = [
        (await http.get(path)).json()
        for path in (
            f"/a2a/{chat}",
            "/a2a/chat/.well-known/agent-card.json",
            f"/a2a/{chat}/.well-known/agent.json",
            f"/.well-known/agent-card.json?assistant_id={chat}",
        )
    ]

    assert all(card == cards[0] for card in cards)
    assert cards[0]["url"] == f"{url}/a2a/{chat}"
    assert cards[0]["capabilities"]["streaming"]
    assert "securitySchemes" not in cards[0]  # everybody may call
    assert cards[0]["skills"][0]["metadata"]["inputSchema"]["supportsA2A"]
    steps = (await http.get("/a2a/steps")).json()
    assert not steps["skills"][0]["metadata"]["inputSchema"]["supportsA2A"]
    for path in ("/.well-known/agent-card.json", "/a2a/nobody", f"/a2a/{uuid4()}"):
        assert (await http.get(path)).status_code == 400, path
    settings = services.settings.model_copy(update={"default_a2a_assistant_id": "chat"})
    async with serving(create_app(replace(services, settings=settings))) as other:
        found = await http.get(f"{other}/.well-known/agent-card.json")
    assert found.json()["name"] == "chat"
