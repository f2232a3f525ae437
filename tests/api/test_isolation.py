"""
A thousand random operations of three tenants, and a model of who may see and change what.

Each is known by a key, by a token, or by a service that acts for them, by chance. The model is a few dicts;
the server must answer as it says, every list included. A failure tells the seed: set `ISOLATION_SEED` to it.
"""

import asyncio
import json
import os
import random
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

from api.bootstrap import Services
from api.settings import Settings
from tests.api.issuers import AUDIENCE, Issuer, make_key

SEED = int(os.environ.get("ISOLATION_SEED") or random.SystemRandom().randrange(2**32))
OPERATIONS = 1000
TENANTS = ("ada", "eve", "bob")
#: How many things of a kind a tenant has at the most: a list is asked for again and again.
MOST = 12
#: In whatever is somebody's, with their name.
WORD = "belongsto"
DEADLINE_SECONDS = 60.0


@dataclass
class Conversation:
    """What the model knows of a thread."""

    owner: str
    members: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)
    #: Who ever could see it: an event of then may be told them later.
    seen_by: set[str] = field(default_factory=set)
    has_said: bool = False

    def is_visible(self, who: str) -> bool:
        return who == self.owner or who in self.members

    def is_editable(self, who: str) -> bool:
        return who == self.owner or self.members.get(who) == "editor"


@dataclass
class Model:
    """What there is, and whose."""

    threads: dict[str, Conversation] = field(default_factory=dict)
    gone: dict[str, Conversation] = field(default_factory=dict)
    assistants: dict[str, str] = field(default_factory=dict)
    crons: dict[str, str] = field(default_factory=dict)
    webhooks: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    items: dict[tuple[str, str], str] = field(default_factory=dict)

    def visible(self, who: str) -> set[str]:
        return {id_ for id_, one in self.threads.items() if one.is_visible(who)}

    def own(self, what: str, who: str) -> set[str]:
        return {id_ for id_, owner in getattr(self, what).items() if owner == who}

    def sees_file(self, file_id: str, who: str) -> bool:
        return self.files[file_id] == who or any(
            file_id in one.files and one.is_visible(who) for one in self.threads.values()
        )


@pytest.fixture
def settings(tmp_path: Path, issuer: Issuer) -> Settings:
    config = tmp_path / "langgraph.json"
    config.write_text(json.dumps({"graphs": {"chat": "tests.graph.sample_graphs:chat"}}))
    return Settings(
        config=config,
        auth=("keys", "jwt"),
        jwt_issuer=issuer.url,
        jwt_audience=(AUDIENCE,),
        auth_failures_per_minute=0,
        search_index_seconds=0.2,
    )


class World:
    """Does what chance says, and compares."""

    def __init__(self, http: httpx.AsyncClient, shown: dict[str, list[dict[str, str]]]) -> None:
        self.http = http
        self.model = Model()
        self.chance = random.Random(SEED)
        self.done: Counter[str] = Counter()
        self.refused: Counter[int] = Counter()
        self._shown = shown
        self.who = TENANTS[0]
        self.sockets: dict[str, ClientConnection] = {}

    async def ask(
        self, method: str, path: str, status: int | set[int] | None = None, **more: Any
    ) -> Any:
        """The answer, as JSON where it is; what is refused tells nothing of anybody."""
        headers = {**self.chance.choice(self._shown[self.who]), **more.pop("headers", {})}
        answer = await self.http.request(method, path, headers=headers, **more)
        expected = {status} if isinstance(status, int) else status or {200}
        told = f"{self.who}: {method} {path} {more}: {answer.status_code} {answer.text[:500]}"
        assert answer.status_code in expected, told
        for other in TENANTS:
            if answer.status_code >= 400:
                assert f"{WORD}{other}" not in answer.text, told
        if answer.status_code >= 400:
            self.refused[answer.status_code] += 1
        is_json = answer.headers.get("content-type", "").startswith("application/json")
        return answer.json() if answer.content and is_json else answer.text

    def thread(self) -> tuple[str, Conversation] | None:
        """Any thread there is, or was."""
        every = [*self.model.threads.items()]
        if self.model.gone and self.chance.random() < 0.05:
            every = [*self.model.gone.items()]
        return self.chance.choice(every) if every else None

    def any_of(self, what: str) -> str | None:
        every = [*getattr(self.model, what)]
        return self.chance.choice(every) if every else None

    def is_there(self, id_: str) -> bool:
        return id_ in self.model.threads

    def may_see(self, id_: str) -> bool:
        return self.is_there(id_) and self.model.threads[id_].is_visible(self.who)

    def may_change(self, id_: str) -> bool:
        return self.is_there(id_) and self.model.threads[id_].is_editable(self.who)

    def owns(self, id_: str) -> bool:
        return self.is_there(id_) and self.model.threads[id_].owner == self.who

    def has_owned(self, id_: str) -> bool:
        return id_ in self.model.gone and self.model.gone[id_].owner == self.who

    @property
    def mark(self) -> str:
        return f"{WORD}{self.who}"

    def keep(self, thread_id: str, **known: Any) -> Conversation:
        made = self.model.threads[thread_id] = Conversation(self.who, **known)
        made.seen_by = {self.who}
        return made

    def has_room(self, what: str) -> bool:
        own = [one for one in self.model.threads.values() if one.owner == self.who]
        count = len(own) if what == "threads" else len(self.model.own(what, self.who))
        return count < MOST


Operation = Callable[["World"], Awaitable[None]]
OPERATIONS_BY_WEIGHT: list[tuple[Operation, int]] = []


def operation(weight: int) -> Callable[[Operation], Operation]:
    def keep(found: Operation) -> Operation:
        OPERATIONS_BY_WEIGHT.append((found, weight))
        return found

    return keep


# --------------------------------------------------------------------------- threads and sessions


@operation(6)
async def makes_a_thread(world: World) -> None:
    if world.has_room("threads"):
        metadata = {"note": world.mark, "owner": world.chance.choice(TENANTS)}
        made = await world.ask("POST", "/threads", json={"metadata": metadata})
        assert made["metadata"]["owner"] == world.who
        world.keep(made["thread_id"])


@operation(6)
async def makes_a_session(world: World) -> None:
    if world.has_room("threads"):
        made = await world.ask("POST", "/api/sessions", json={"name": world.mark})
        world.keep(made["id"])


@operation(2)
async def takes_an_id_that_is_taken(world: World) -> None:
    if (found := world.thread()) and world.is_there(found[0]):
        body = {
            "thread_id": found[0],
            "if_exists": world.chance.choice(["raise", "do_nothing"]),
        }
        own = world.owns(found[0]) and body["if_exists"] == "do_nothing"
        await world.ask("POST", "/threads", 200 if own else 409, json=body)


@operation(20)
async def reads_one(world: World) -> None:
    if not (found := world.thread()):
        return
    id_ = found[0]
    path = world.chance.choice(
        ["/threads/{}", "/threads/{}/state", "/threads/{}/history", "/threads/{}/runs", "/threads/{}/storage",
         "/api/sessions/{}", "/api/sessions/{}/messages", "/api/sessions/{}/context",
         "/api/sessions/{}/export", "/v1/conversations/{}", "/v1/conversations/{}/items"]
    )  # fmt: skip
    await world.ask("GET", path.format(id_), 200 if world.may_see(id_) else 404)


@operation(12)
async def lists_all(world: World) -> None:
    visible = world.model.visible(world.who)
    by = world.chance.choice([None, *TENANTS])
    body: Any = {"limit": 1000, **({"metadata": {"owner": by}} if by else {})}
    wanted = {id_ for id_ in visible if by in (None, world.model.threads[id_].owner)}
    found = await world.ask("POST", "/threads/search", json=body)
    assert {one["thread_id"] for one in found} == wanted
    assert await world.ask(
        "POST", "/threads/count", json={"metadata": body.get("metadata", {})}
    ) == (len(wanted))


@operation(8)
async def pages_through_sessions(world: World) -> None:
    found: set[str] = set()
    params: dict[str, Any] = {"limit": 7, "status": "all"}
    while True:
        page = await world.ask("GET", "/api/sessions", {200, 422}, params=params)
        if "data" not in page:
            del params["status"]
            continue
        found |= {one["id"] for one in page["data"]}
        if not page["has_more"]:
            break
        params["cursor"] = page["next_cursor"]
    assert found == world.model.visible(world.who)


@operation(4)
async def exports_all(world: World) -> None:
    told = await world.ask("GET", "/api/sessions/export", params={"format": "jsonl"})
    own = {id_ for id_, one in world.model.threads.items() if one.owner == world.who}
    lines = [json.loads(line) for line in told.splitlines() if line]
    assert {line["id"] for line in lines if line["type"] == "session"} == own


@operation(8)
async def changes_one(world: World) -> None:
    if not (found := world.thread()):
        return
    id_ = found[0]
    status = 200 if world.owns(id_) else 404
    if world.chance.random() < 0.5:
        metadata = {
            "note": world.mark,
            "owner": world.chance.choice(TENANTS),
            "members": {world.who: "editor"},
        }
        changed = await world.ask("PATCH", f"/threads/{id_}", status, json={"metadata": metadata})
        if status == 200:
            assert changed["metadata"]["owner"] == world.who
    else:
        await world.ask(
            "PATCH", f"/api/sessions/{id_}", status, json={"name": f"{world.mark} again"}
        )


@operation(3)
async def deletes_one(world: World) -> None:
    if not (found := world.thread()):
        return
    id_ = found[0]
    may = world.owns(id_)
    path = world.chance.choice([f"/threads/{id_}", f"/api/sessions/{id_}?purge=true"])
    # Whoever purges what is gone for good is told no more than others.
    await world.ask("DELETE", path, 204 if may else {404, 410} if world.has_owned(id_) else 404)
    if may:
        world.model.gone[id_] = world.model.threads.pop(id_)


@operation(5)
async def copies_one(world: World) -> None:
    if not (found := world.thread()) or not world.has_room("threads"):
        return
    id_ = found[0]
    may = world.may_see(id_)
    if world.chance.random() < 0.5:
        made = await world.ask("POST", f"/threads/{id_}/copy", 200 if may else 404)
        made_id = made.get("thread_id")
    else:
        # One that nothing was said in has nothing to go on from.
        made = await world.ask(
            "POST", f"/api/sessions/{id_}/fork", {200, 409} if may else 404, json={}
        )
        made_id = made.get("id")
    if made_id:
        # What was sent in it was, in the copy.
        world.keep(made_id, files=set(found[1].files), has_said=found[1].has_said)


# --------------------------------------------------------------------------- sharing


@operation(10)
async def shares_with_somebody(world: World) -> None:
    if not (found := world.thread()):
        return
    id_, role = found[0], world.chance.choice(["viewer", "editor"])
    other = world.chance.choice([one for one in TENANTS if one != world.who])
    body = {"audience": "users", "users": [other], "role": role}
    may = world.owns(id_)
    await world.ask("POST", f"/api/sessions/{id_}/shares", 200 if may else 404, json=body)
    if may:
        found[1].members[other] = role
        found[1].seen_by.add(other)


@operation(5)
async def shares_no_more(world: World) -> None:
    if not (found := world.thread()):
        return
    id_, other = found[0], world.chance.choice(TENANTS)
    may = world.owns(id_)
    if world.chance.random() < 0.2:
        await world.ask("DELETE", f"/api/sessions/{id_}/shares", 204 if may else 404)
        if may:
            found[1].members.clear()
            found[1].links.clear()
        return
    is_member = may and other in found[1].members
    path = f"/api/sessions/{id_}/shares/users"
    await world.ask("DELETE", path, 204 if is_member else 404, params={"user": other})
    if is_member:
        del found[1].members[other]


@operation(4)
async def makes_a_link(world: World) -> None:
    if not (found := world.thread()) or len(found[1].links) >= 5:
        return
    id_, may = found[0], world.owns(found[0])
    made = await world.ask(
        "POST", f"/api/sessions/{id_}/shares", 200 if may else 404, json={"mode": "live"}
    )
    if may:
        found[1].links[made["id"]] = made["url"].rpartition("/")[2]


@operation(4)
async def goes_by_a_link(world: World) -> None:
    every = [(one, token) for one in world.model.threads.values() for token in one.links.values()]
    if every:
        _, token = world.chance.choice(every)
        # A link is for whoever has it, and for nobody who has another.
        answer = await world.http.get(f"/api/shares/{token}")
        assert answer.status_code == 200, answer.text
        assert (await world.http.get(f"/api/shares/{token[:-4]}AAAA")).status_code == 404


@operation(3)
async def looks_at_shares(world: World) -> None:
    if found := world.thread():
        status = 200 if world.owns(found[0]) else 404
        told = await world.ask("GET", f"/api/sessions/{found[0]}/shares", status)
        if status == 200:
            links = {one["id"] for one in told["data"] if one["id"] != "users"}
            assert links == set(found[1].links)


# --------------------------------------------------------------------------- runs and messages


@operation(6)
async def says_something(world: World) -> None:
    if not (found := world.thread()):
        return
    id_, may = found[0], world.may_change(found[0])
    asked: dict[str, Any] = {"query": f"hello of {world.mark}"}
    status: set[int] = {200 if may else 404}
    if world.model.files and world.chance.random() < 0.5:
        file_id = world.chance.choice([*world.model.files])
        asked["attachments"] = [file_id]
        if not world.model.sees_file(file_id, world.who):
            status = {404, 422} if may else {404}
    answer = await world.ask("POST", f"/api/sessions/{id_}/messages", status, json=asked)
    if "response" in answer:
        found[1].has_said = True
        found[1].files |= set(asked.get("attachments", ()))


@operation(5)
async def runs_something(world: World) -> None:
    if not (found := world.thread()):
        return
    id_, may = found[0], world.may_change(found[0])
    messages = [{"role": "user", "content": f"run of {world.mark}"}]
    assistant = "chat"
    status = 200 if may else 404
    if world.model.assistants and world.chance.random() < 0.4:
        assistant = world.chance.choice([*world.model.assistants])
        if world.model.assistants[assistant] != world.who:
            status = 404
    body = {"assistant_id": assistant, "input": {"messages": messages}}
    if world.chance.random() < 0.2:
        body["if_not_exists"] = "create"
        # It is not told apart whether somebody has it, or it can be made: it is taken.
        if not world.is_there(id_):
            return
    await world.ask("POST", f"/threads/{id_}/runs/wait", status, json=body)
    if status == 200:
        found[1].has_said = True


@operation(4)
async def judges_an_answer(world: World) -> None:
    said = [(id_, one) for id_, one in world.model.threads.items() if one.has_said]
    if not said:
        return
    id_, one = world.chance.choice(said)
    owner, who = one.owner, world.who
    world.who = owner
    page = await world.ask(
        "GET", f"/api/sessions/{id_}/messages", params={"limit": 1, "order": "desc"}
    )
    world.who = who
    path = f"/api/sessions/{id_}/messages/{page['data'][0]['id']}/feedback"
    await world.ask("PUT", path, 200 if world.may_change(id_) else 404, json={"score": 50})


@operation(6)
async def searches_messages(world: World) -> None:
    params = {"q": f"{WORD}{world.chance.choice(TENANTS)}", "limit": 100}
    found = await world.ask("GET", "/api/search", params=params)
    assert {hit["session_id"] for hit in found["data"]} <= world.model.visible(world.who)


@operation(3)
async def counts_what_there_is(world: World) -> None:
    found = await world.ask("GET", "/api/stats", params={"group_by": "day"})
    assert sum(row["sessions"] for row in found["data"]) <= len(world.model.visible(world.who))


@operation(5)
async def subscribes_over_a_socket(world: World) -> None:
    if not (found := world.thread()):
        return
    socket = world.sockets[world.who]
    id_, number = found[0], world.chance.randrange(1, 2**31)
    command = {"id": number, "method": "session.subscribe", "params": {"session_id": id_}}
    await socket.send(json.dumps(command))
    told = await _answer_to(socket, number)
    assert (told["type"] == "success") is world.may_see(id_), (world.who, told)
    if told["type"] == "success":
        leaving = {"id": number, "method": "session.unsubscribe", "params": {"session_id": id_}}
        await socket.send(json.dumps(leaving))
        assert (await _answer_to(socket, number))["type"] == "success"
    else:
        assert told["error"] == "not_found", told


async def _answer_to(socket: ClientConnection, number: int) -> Any:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while (told := json.loads(await socket.recv()))["type"] == "event" or told["id"] != number:
            pass
    return told


# --------------------------------------------------------------------------- assistants, crons, webhooks


@operation(4)
async def makes_an_assistant(world: World) -> None:
    if world.has_room("assistants"):
        body = {
            "graph_id": "chat",
            "name": world.mark,
            "metadata": {"owner": world.chance.choice(TENANTS)},
        }
        made = await world.ask("POST", "/assistants", json=body)
        world.model.assistants[made["assistant_id"]] = world.who


@operation(6)
async def reads_or_changes_an_assistant(world: World) -> None:
    if id_ := world.any_of("assistants"):
        owns = world.model.assistants[id_] == world.who
        status, path = 200 if owns else 404, f"/assistants/{id_}"
        match world.chance.randrange(5):
            case 0:
                await world.ask("PATCH", path, status, json={"description": world.mark})
            case 1:
                await world.ask("GET", f"{path}/schemas", status)
            case 2:
                await world.ask("DELETE", path, 204 if owns else 404)
                if owns:
                    del world.model.assistants[id_]
                    for cron_id in [*world.model.crons]:
                        if world.model.crons[cron_id] == id_:
                            del world.model.crons[cron_id]
            case _:
                await world.ask("GET", path, status)


@operation(5)
async def lists_assistants_and_tools(world: World) -> None:
    own = world.model.own("assistants", world.who)
    found = await world.ask("POST", "/assistants/search", json={"limit": 1000})
    assert {one["assistant_id"] for one in found if not _is_of_graph(one)} == own
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    listed = await world.ask("POST", "/mcp", json=call, headers={"accept": "application/json"})
    assert len(listed["result"]["tools"]) == len(own) + 1


def _is_of_graph(assistant: Any) -> bool:
    return bool((assistant["metadata"] or {}).get("created_by") == "system")


@operation(3)
async def makes_a_cron(world: World) -> None:
    if world.has_room("crons"):
        body = {
            "assistant_id": "chat", "schedule": "0 0 1 1 *", "input": {"messages": []},
            "metadata": {"owner": world.chance.choice(TENANTS)},
        }  # fmt: skip
        made = await world.ask("POST", "/runs/crons", json=body)
        world.model.crons[made["cron_id"]] = world.who


@operation(5)
async def reads_lists_or_deletes_crons(world: World) -> None:
    own = world.model.own("crons", world.who)
    found = await world.ask("POST", "/runs/crons/search", json={"limit": 1000})
    assert {one["cron_id"] for one in found} == own
    if id_ := world.any_of("crons"):
        owns, path = id_ in own, f"/runs/crons/{id_}"
        match world.chance.randrange(3):
            case 0:
                await world.ask("PATCH", path, 200 if owns else 404, json={"enabled": False})
            case 1:
                await world.ask("DELETE", path, 204 if owns else 404)
                if owns:
                    del world.model.crons[id_]
            case _:
                await world.ask("GET", path, 200 if owns else 404)


@operation(3)
async def registers_a_webhook(world: World) -> None:
    if world.has_room("webhooks"):
        body = {"url": f"https://1.1.1.1/{world.mark}", "enabled": False}
        made = await world.ask("POST", "/api/webhooks", json=body)
        world.model.webhooks[made["id"]] = world.who


@operation(5)
async def reads_lists_or_deletes_webhooks(world: World) -> None:
    own = world.model.own("webhooks", world.who)
    found = await world.ask("GET", "/api/webhooks")
    assert {one["id"] for one in found["data"]} == own
    if id_ := world.any_of("webhooks"):
        owns, path = id_ in own, f"/api/webhooks/{id_}"
        match world.chance.randrange(3):
            case 0:
                await world.ask("GET", f"{path}/deliveries", 200 if owns else 404)
            case 1:
                await world.ask("DELETE", path, 204 if owns else 404)
                if owns:
                    del world.model.webhooks[id_]
            case _:
                await world.ask("GET", path, 200 if owns else 404)


# --------------------------------------------------------------------------- files and items


@operation(4)
async def uploads_a_file(world: World) -> None:
    if world.has_room("files"):
        # Now and then the very same as somebody else: it is kept once, and each has their own.
        text = (
            "the same for everybody" if world.chance.random() < 0.3 else f"{world.mark} {uuid4()}"
        )
        form = {"file": ("note.txt", text.encode())}
        made = await world.ask("POST", "/api/files", files=form)
        world.model.files[made["id"]] = world.who


@operation(6)
async def reads_a_file(world: World) -> None:
    if id_ := world.any_of("files"):
        status = 200 if world.model.sees_file(id_, world.who) else 404
        await world.ask("GET", f"/api/files/{id_}", status)


@operation(8)
async def uses_the_store(world: World) -> None:
    whose, key = world.chance.choice(TENANTS), world.chance.choice("kl")
    own, items = whose == world.who, world.model.items
    item = {"namespace": [whose, "n"], "key": key}
    match world.chance.randrange(4):
        case 0:
            body = {**item, "value": {"note": world.mark}}
            await world.ask("PUT", "/store/items", 204 if own else 403, json=body)
            if own:
                items[whose, key] = world.mark
        case 1:
            params = {"namespace": f"{whose}.n", "key": key}
            found = await world.ask("GET", "/store/items", 200 if own else 403, params=params)
            if own:
                assert (found or {}).get("value") == (
                    {"note": items[whose, key]} if (whose, key) in items else None
                )
        case 2:
            await world.ask("DELETE", "/store/items", 204 if own else 403, json=item)
            if own:
                items.pop((whose, key), None)
        case _:
            found = await world.ask("POST", "/store/items/search", json={"namespace_prefix": []})
            keys = {one["key"] for one in found["items"]}
            assert keys == {key for owner, key in items if owner == world.who}


# --------------------------------------------------------------------------- all of it


@pytest.fixture
async def world(
    http: httpx.AsyncClient, services: Services, issuer: Issuer, url: str
) -> AsyncIterator[World]:
    service = await make_key(services.db, "front", role=["service"])
    shown = {
        name: [
            {"x-api-key": await make_key(services.db, name)},
            {"authorization": f"Bearer {issuer.token(name, exp=int(1e10))}"},
            {"authorization": f"Bearer {service}", "x-on-behalf-of": name},
        ]
        for name in TENANTS
    }
    world = World(http, shown)
    for name in TENANTS:
        ws = url.replace("http", "ws", 1) + "/api/ws"
        world.sockets[name] = await connect(ws, additional_headers=shown[name][0])
    yield world
    for socket in world.sockets.values():
        await socket.close()


async def test_a_thousand_operations_show_and_change_what_is_theirs(world: World) -> None:
    # Shown of a test that fails.
    sys.stdout.write(f"ISOLATION_SEED={SEED}\n")
    found, weights = zip(*OPERATIONS_BY_WEIGHT, strict=True)
    for _ in range(OPERATIONS):
        world.who = world.chance.choice(TENANTS)
        (one,) = world.chance.choices(found, weights)
        await one(world)
        world.done[one.__name__] += 1
    await _hears_of_nobody_else(world)

    # Nothing was left out, and much was refused: a test in which everybody owns everything tells nothing.
    assert len(world.done) == len(found)
    assert world.refused[404] > 100, world.refused
    assert world.refused[403] > 0, world.refused


async def _hears_of_nobody_else(world: World) -> None:
    """Of all that happened, each is told of what they could see at a time."""
    every = {**world.model.gone, **world.model.threads}
    for world.who in TENANTS:
        (headers, *_) = world._shown[world.who]
        told = ""
        request = world.http.stream("GET", "/api/events", params={"since": "-1"}, headers=headers)
        async with request as answer:
            try:
                # What was before is told without a pause.
                async with asyncio.timeout(DEADLINE_SECONDS) as limit:
                    async for chunk in answer.aiter_text():
                        told += chunk
                        limit.reschedule(asyncio.get_running_loop().time() + 2.0)
            except TimeoutError:
                pass
        lines = re.findall(r"^data: (.*)$", told.replace("\r", ""), re.MULTILINE)
        heard = {json.loads(line).get("data", {}).get("session_id") for line in lines}
        assert heard & world.model.visible(world.who), "nothing was heard"
        for id_ in heard - {None}:
            assert world.who in every[id_].seen_by, (world.who, id_)


async def test_metrics_and_what_is_open_tell_of_nobody(
    http: httpx.AsyncClient, services: Services
) -> None:
    ada = {"x-api-key": await make_key(services.db, "ada-of-analytical-engines")}
    root = {"x-api-key": await make_key(services.db, "root", role=["admin"])}
    made = (await http.post("/threads", json={"metadata": {"note": WORD}}, headers=ada)).json()
    body = {"assistant_id": "chat", "input": {"messages": [{"role": "user", "content": WORD}]}}
    await http.post(f"/threads/{made['thread_id']}/runs/wait", json=body, headers=ada)
    assert (await http.get("/metrics")).status_code == 401
    assert (await http.get("/metrics", headers=ada)).status_code == 403
    for path in (
        "/metrics",
        "/metrics?format=json",
        "/ok?deep=1",
        "/ready",
        "/info",
        "/openapi.json",
    ):
        told = await http.get(path, headers=root)
        assert told.status_code == 200, path
        for one in ("ada-of-analytical-engines", made["thread_id"], WORD):
            assert one not in told.text, path
