"""The A2A endpoint, §1.7 of the contract."""

from typing import Any

from tests.differential.cases.assistants import CHAT, own
from tests.differential.cases.mcp import call
from tests.differential.cases.system import NOBODY
from tests.differential.registry import add, case, single
from tests.differential.talk import Talk

PATH = f"/a2a/{CHAT}"


def _said(text: str, **more: Any) -> dict[str, Any]:
    parts = [{"kind": "text", "text": text}]
    return {"message": {"role": "user", "parts": parts, "messageId": "m-1", **more}}


def _said_1(text: str, **more: Any) -> dict[str, Any]:
    parts = [{"text": text}]
    return {"message": {"role": "ROLE_USER", "parts": parts, "messageId": "m-1", **more}}


single(
    __name__,
    {
        "the card of an agent": ("GET", f"/.well-known/agent-card.json?assistant_id={CHAT}"),
        "the card of nobody": ("GET", "/.well-known/agent-card.json"),
        "the card of an agent that is not there": (
            "GET",
            f"/.well-known/agent-card.json?assistant_id={NOBODY}",
        ),
        "the card by its agent": ("GET", PATH),
        "the card below its agent": ("GET", f"{PATH}/.well-known/agent-card.json"),
        "the old card below its agent": ("GET", f"{PATH}/.well-known/agent.json"),
        "an agent is deleted": ("DELETE", PATH),
        "an agent that is not there": ("POST", f"/a2a/{NOBODY}", call("message/send", _said("x"))),
        "an agent by an unknown name": ("POST", "/a2a/nope", call("message/send", _said("x"))),
        "an agent without messages": (
            "POST",
            f"/a2a/{own('steps')}",
            call("message/send", _said("x")),
        ),
        "an unknown method of an agent": ("POST", PATH, call("nope", {})),
        "an agent gets another protocol": ("POST", PATH, {"id": 1, "method": "message/send"}),
        "an agent gets no message": ("POST", PATH, call("message/send", {})),
        "an agent gets no parts": (
            "POST",
            PATH,
            call("message/send", {"message": {"role": "user", "messageId": "m"}}),
        ),
        "an agent gets a word for parameters": ("POST", PATH, call("message/send", "word")),
        "a task that is not there": (
            "POST",
            PATH,
            call("tasks/get", {"id": f"{NOBODY}:{NOBODY}", "contextId": NOBODY}),
        ),
        "a task by a word": ("POST", PATH, call("tasks/get", {"id": "nope"})),
        "a task without an id": ("POST", PATH, call("tasks/get", {})),
        "a task that is not there is not cancelled": (
            "POST",
            PATH,
            call("tasks/cancel", {"id": f"{NOBODY}:{NOBODY}", "contextId": NOBODY}),
        ),
        "an agent has no push notifications": (
            "POST",
            PATH,
            call("tasks/pushNotificationConfig/set", {"taskId": "x"}),
        ),
        "an agent's extended card": ("POST", PATH, call("GetExtendedAgentCard", {})),
        "an agent gets a batch": ("POST", PATH, [call("message/send", _said("x"))]),
    },
)


@case
async def an_agent_gets_no_json(talk: Talk) -> None:
    await talk.post(PATH, content=b"{nope")


def _sending(method: str, said: Any) -> Any:
    async def play(talk: Talk) -> None:
        await talk.post(PATH, call(method, said("hello")))

    return play


add("an agent answers the old way", _sending("message/send", _said), __name__)
add("an agent answers the new way", _sending("SendMessage", _said_1), __name__)
add("an agent streams the old way", _sending("message/stream", _said), __name__)
add("an agent streams the new way", _sending("SendStreamingMessage", _said_1), __name__)


@case
async def an_agent_remembers_its_context(talk: Talk) -> None:
    first = await talk.post(PATH, call("message/send", _said("hello")), unseen=True)
    context = first["result"]["contextId"]
    await talk.post(PATH, call("message/send", _said("again", contextId=context)))


@case
async def a_task_is_read(talk: Talk) -> None:
    sent = await talk.post(PATH, call("message/send", _said("hello")), unseen=True)
    asked = {"id": sent["result"]["id"], "contextId": sent["result"]["contextId"]}
    for method in ("tasks/get", "GetTask"):
        await talk.post(PATH, call(method, asked))
    await talk.post(PATH, call("tasks/get", {**asked, "historyLength": 1}))
    await talk.post(PATH, call("tasks/cancel", asked))


@case
async def tasks_are_listed(talk: Talk) -> None:
    sent = await talk.post(PATH, call("message/send", _said("hello")), unseen=True)
    await talk.post(PATH, call("ListTasks", {"contextId": sent["result"]["contextId"]}))


@case
async def an_agent_gets_data(talk: Talk) -> None:
    message = _said("hello")
    message["message"]["parts"].append({"kind": "data", "data": {"a": 1}})
    await talk.post(PATH, call("message/send", message))
