"""Erasing a user, and exporting one: everything of theirs in every table and key, and nothing else."""

import asyncio
import json
import re
import uuid
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import psycopg
import pytest
from redis.asyncio import Redis

from api.bootstrap import Services
from api.processes.embedded import Servers
from api.settings import Settings
from graph import user_jobs
from graph.user import label_of
from store import audit, jobs, tallies, threads
from store.access import EVERYTHING
from store.audit import Filter

DEADLINE_SECONDS = 60
PAGE = (Path(__file__).parents[2] / "docs/retention.md").read_text()
#: Of every table what the page says of it: what of a user, what an erasure does, when it goes.
TABLES = {
    cells[1].strip("`"): cells[2:5]
    for row in PAGE.partition("## Every table")[2].partition("## ")[0].splitlines()
    if row.startswith("| `") and (cells := re.split(r"\s*\|\s*", row))
}
#: Those that are there only with an index of vectors.
WITH_VECTORS = {"store_vectors", "vector_migrations"}
#: What may tell of who was erased.
STAYS = {"audit", "user_job"}


@pytest.fixture
def settings(tmp_path: Path, request: pytest.FixtureRequest) -> Settings:
    graphs = {name: f"tests.graph.sample_graphs:{name}" for name in ("chat", "ask", "endless")}
    config = tmp_path / "langgraph.json"
    config.write_text(json.dumps({"graphs": graphs, "auth": {"path": "tests.api.auths:owners"}}))
    key = getattr(request, "param", None)
    return Settings(config=config, search_index_seconds=0.2, aes_key=key)


@pytest.fixture
async def ada(http: httpx.AsyncClient) -> "Somebody":
    return Somebody(http, f"ada-{uuid.uuid4().hex[:8]}")


@pytest.fixture
async def eve(http: httpx.AsyncClient) -> "Somebody":
    return Somebody(http, f"eve-{uuid.uuid4().hex[:8]}")


class Somebody:
    """A user, and what they have done."""

    def __init__(self, http: httpx.AsyncClient, name: str) -> None:
        self._http = http
        self.name = name
        self.session = ""
        self.message = ""

    async def ask(self, method: str, path: str, *, status: int = 200, **more: Any) -> Any:
        headers = {"authorization": f"Bearer {self.name}", **more.pop("headers", {})}
        answer = await self._http.request(method, path, headers=headers, **more)
        assert answer.status_code == status, (method, path, answer.status_code, answer.text)
        is_json = answer.headers.get("content-type", "") == "application/json"
        return answer.json() if is_json and answer.content else answer.text

    async def settle(self) -> None:
        """Have something of everything."""
        say = f"said by {self.name}"
        thread = (await self.ask("POST", "/threads", json={"ttl": {"ttl": 60}}))["thread_id"]
        await self.ask(
            "POST",
            f"/threads/{thread}/runs/wait",
            json={"assistant_id": "ask", "input": {"text": say}},
        )
        made = await self.ask("POST", "/api/sessions", json={"name": say, "assistant_id": "chat"})
        self.session = made["id"]
        about = f"/api/sessions/{self.session}"
        files = {"file": (f"{self.name}.txt", say.encode())}
        sent = await self.ask("POST", "/api/files", files=files)
        asked = {"query": say, "attachments": [sent["id"]]}
        said = await self.ask(
            "POST", f"{about}/messages", json=asked, headers={"idempotency-key": self.name}
        )
        self.message = said["id"]
        await self.ask("POST", f"{about}/messages/{said['id']}/regenerate", json={})
        second = await self.ask("POST", f"{about}/messages", json={"query": f"{say} again"})
        await self.ask("DELETE", f"{about}/messages/{second['id']}", status=204)
        await self.ask("PUT", f"{about}/messages/{said['id']}/feedback", json={"score": 9})
        await self.ask("POST", f"{about}/shares", json={"mode": "snapshot"})
        purged = (await self.ask("POST", "/api/sessions", json={"name": say}))["id"]
        await self.ask("DELETE", f"/api/sessions/{purged}?purge=true", status=204)
        await self._settle_elsewhere(say)

    async def _settle_elsewhere(self, say: str) -> None:
        unsent = {"file": ("unsent.txt", f"{say} too".encode())}
        await self.ask("POST", "/api/files", files=unsent)
        item = {"namespace": ["n"], "key": "k", "value": {"note": say}}
        await self.ask("PUT", "/store/items", json=item, status=204)
        assistant = await self.ask(
            "POST", "/assistants", json={"graph_id": "ask", "name": say, "metadata": {}}
        )
        path = f"/assistants/{assistant['assistant_id']}"
        await self.ask("PATCH", path, json={"description": say})
        cron = {"assistant_id": "ask", "schedule": "0 0 1 1 *", "input": {"text": say}}
        await self.ask("POST", "/runs/crons", json=cron)
        hook = {"url": f"https://1.1.1.1/{self.name}", "enabled": False}
        self.hook = (await self.ask("POST", "/api/webhooks", json=hook))["id"]
        file = {"messages": [{"role": "user", "content": say}]}
        params = {"background": True, "dry_run": True}
        await self.ask("POST", "/api/sessions/import", params=params, json=file, status=202)

    async def visit(self, other: "Somebody") -> None:
        """Leave something in a session of somebody else's."""
        await other.ask(
            "POST",
            f"/api/sessions/{other.session}/shares",
            json={"audience": "users", "users": [self.name], "role": "editor"},
        )
        about = f"/api/sessions/{other.session}"
        opinion = {"score": 1, "reason": f"{self.name}'s"}
        await self.ask("PUT", f"{about}/messages/{other.message}/feedback", json=opinion)
        runs = f"/threads/{other.session}/runs"
        says = {"messages": [{"role": "user", "content": "from a guest"}]}
        await self.ask("POST", f"{runs}/wait", json={"assistant_id": "chat", "input": says})
        late = {"assistant_id": "chat", "input": says, "after_seconds": 3600}
        await self.ask("POST", runs, json=late)

    async def everything(self) -> dict[str, Any]:
        """What they see of what is theirs."""
        seen = {
            path: await self.ask("GET", path)
            for path in (
                "/api/sessions", f"/api/sessions/{self.session}/messages", "/api/webhooks",
                f"/api/sessions/{self.session}/shares", "/store/items?namespace=n&key=k",
            )
        }  # fmt: skip
        for path in ("/threads/search", "/assistants/search", "/runs/crons/search"):
            seen[path] = sorted(map(str, await self.ask("POST", path, json={})))
        return seen

    async def done(self, kind: str, of: "Somebody | None" = None) -> dict[str, Any]:
        """Have all that is theirs, or another one's, erased or exported, and wait for it."""
        method, what = ("DELETE", "data") if kind == "erasure" else ("POST", "export")
        about = f"/api/users/{quote((of or self).name, safe='')}"
        begun = await self.ask(method, f"{about}/{what}", status=202)
        async with asyncio.timeout(DEADLINE_SECONDS):
            while True:
                job = await self.ask("GET", f"{about}/jobs/{begun['id']}")
                if job["status"] not in ("pending", "running"):
                    found: dict[str, Any] = job
                    return found
                await asyncio.sleep(0.1)


async def put_what_is_sent_nowhere(services: Services, who: Somebody) -> None:
    """What would need another server, or another project's routes."""
    async with services.db.transaction() as tx:
        run = {"metadata": {"owner": who.name}, "values": who.name}
        await jobs.enqueue(tx, "webhook", {"url": "none", "run": run}, delay_seconds=3600)
        await tx.execute(
            "INSERT INTO job (kind, payload, due_at) SELECT 'event_webhook',"
            " jsonb_build_object('webhook_owner', %(n)s::text), now() + interval '1 hour'",
            {"n": who.name},
        )
        await tx.execute(
            "INSERT INTO webhook_delivery (webhook_id, seq, thread_id, name, body)"
            " VALUES (%(hook)s, 1, %(session)s, 'run.ended', %(body)s::jsonb)",
            {"hook": who.hook, "session": who.session, "body": {"data": {"of": who.name}}},
        )
        await tx.execute(
            "INSERT INTO import_part (import_id, number, content)"
            " SELECT import_id, 9, 'not taken in yet' FROM import WHERE owner = %(n)s",
            {"n": who.name},
        )
        await tx.execute(
            "INSERT INTO api_key (key_id, secret_hash, owner) VALUES (md5(%(n)s), 'x', %(n)s)",
            {"n": who.name},
        )
        await tx.execute(
            'INSERT INTO "user" (id, username, password_hash) VALUES (%(n)s, %(n)s, %(n)s)',
            {"n": who.name},
        )


def tables(database_url: str) -> list[str]:
    with psycopg.connect(database_url) as connection:
        rows = connection.execute(
            "SELECT table_name FROM information_schema.tables"
            " WHERE table_schema = 'public' AND table_type = 'BASE TABLE'"
        )
        return sorted(name for (name,) in rows)


def tokens(database_url: str, who: Somebody) -> list[str]:
    """What is in everything that is somebody's: their name, and ids of what is theirs."""
    with psycopg.connect(database_url) as connection:
        ids = connection.execute(
            """
            SELECT thread_id FROM thread WHERE thread_owner(metadata) = %(n)s
            UNION ALL SELECT s.share_id::text FROM share AS s JOIN thread AS t USING (thread_id)
                WHERE thread_owner(t.metadata) = %(n)s
            UNION ALL SELECT content_id::text FROM file WHERE owner = %(n)s
            UNION ALL SELECT file_id::text FROM file WHERE owner = %(n)s
            UNION ALL SELECT import_id::text FROM import WHERE owner = %(n)s
            UNION ALL SELECT webhook_id::text FROM webhook WHERE identity = %(n)s
            UNION ALL SELECT user_job_id::text FROM user_job
                WHERE kind = 'export' AND user_id = %(n)s
            UNION ALL SELECT thread_id FROM tombstone WHERE thread_owner(seen_by) = %(n)s
            """,
            {"n": who.name},
        ).fetchall()
    return [who.name, *(id_ for (id_,) in ids)]


def holding(database_url: str, marks: list[str]) -> set[str]:
    """The tables that have a row with one of some texts in it, or its bytes."""
    pattern = "|".join(map(re.escape, [*marks, *(mark.encode().hex() for mark in marks)]))
    with psycopg.connect(database_url) as connection:
        return {
            name
            for name in tables(database_url)
            if connection.execute(
                f'SELECT EXISTS (SELECT FROM "{name}" AS t WHERE t::text ~ %s)'.encode(), (pattern,)
            ).fetchone()
            == (True,)
        }


async def keys_holding(servers: Servers, marks: list[str]) -> list[str]:
    """The keys of Redis that have one of some texts in them, or under them."""
    found = []
    async with Redis.from_url(servers.redis_url) as redis:
        async for key in redis.scan_iter(count=1000):
            dumped = await redis.dump(key) or b""
            kind = await redis.type(key)
            held = repr(await redis.xrange(key)).encode() if kind == b"stream" else dumped
            if any(mark.encode() in key + held for mark in marks):
                found.append(key.decode())
    return found


async def until_indexed(database_url: str, who: Somebody) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            if "search_message" in holding(database_url, [who.session]):
                return
            await asyncio.sleep(0.1)


def test_every_key_in_redis_is_on_the_page() -> None:
    section = PAGE.partition("## Every key in Redis")[2].partition("\n## ")[0].strip()
    sources = (Path(__file__).parents[2] / "store").glob("*.py")
    made = {name for path in sources for name in re.findall(r"refix}:(\w+)", path.read_text())}

    # One table: what comes after an empty line is none to a reader.
    assert all(line.startswith("|") for line in section.splitlines())
    # What is said in a room is published, and kept nowhere.
    assert set(re.findall(r"^\| `threadwell:(\w+):", section, re.MULTILINE)) == made - {"room"}


def test_every_table_is_on_the_page_with_what_an_erasure_does(database_url: str) -> None:
    assert set(TABLES) - WITH_VECTORS == set(tables(database_url)) - WITH_VECTORS
    assert all(what and erased and end for what, erased, end in TABLES.values())


@pytest.mark.parametrize("settings", [None, "k" * 32], ids=["clear", "encrypted"], indirect=True)
async def test_an_erasure_leaves_nothing_of_a_user_anywhere_and_all_of_everybody_else(
    ada: Somebody,
    eve: Somebody,
    services: Services,
    servers: Servers,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("store.user_jobs.REST_SECONDS", 2.0)
    for who in (ada, eve):
        await who.settle()
    seen_by_eve = await eve.everything()
    await ada.visit(eve)
    await eve.visit(ada)
    assert (await ada.done("export"))["status"] == "success"
    await until_indexed(database_url, ada)
    while await tallies.count_settled(services.db, settle_seconds=0):
        pass
    # After the imports are done, which take their parts with them.
    for who in (ada, eve):
        await put_what_is_sent_nowhere(services, who)
    marks = tokens(database_url, ada)
    before = holding(database_url, marks)
    kept_events = await keys_holding(servers, marks)

    job = await ada.done("erasure")
    after = holding(database_url, marks)

    # There was something in every table that the page says is emptied.
    emptied = {
        name for name, (_, erased, _) in TABLES.items() if erased.startswith(("deleted", "emptied"))
    }
    assert emptied - WITH_VECTORS - before == set()
    assert kept_events
    assert (job["status"], job["error"]) == ("success", None)
    assert after <= STAYS, after
    assert await keys_holding(servers, marks) == []
    counts = {"sessions": 2, "files": 2, "items": 1, "assistants": 1, "crons": 1, "webhooks": 1}
    assert {name: job["report"][name] for name in counts} == counts
    assert job["report"]["runs"] == 2
    assert job["report"]["memberships"] == 1
    await _check_what_is_left(ada, eve, seen_by_eve)
    await _check_one_asked_for_at_once(ada, job)
    await _check_entries(ada, services)


async def _check_what_is_left(ada: Somebody, eve: Somebody, before: dict[str, Any]) -> None:
    """What is Eve's is as it was, but for what Ada said there."""
    left = await eve.everything()
    messages = f"/api/sessions/{eve.session}/messages"
    said = [message["content"] for message in left[messages]["data"]]
    assert "from a guest" in said
    for path in ("/api/webhooks", "/store/items?namespace=n&key=k", "/assistants/search"):
        assert left[path] == before[path], path
    assert len(left["/threads/search"]) == len(before["/threads/search"])
    found = (await eve.ask("GET", "/api/search", params={"q": "said"}))["data"]
    assert found
    assert ada.name not in str(left)


async def _check_one_asked_for_at_once(ada: Somebody, ended: dict[str, Any]) -> None:
    """There is nothing to be erased; it waits all the same, and there is one of it."""
    second = await ada.ask("DELETE", f"/api/users/{ada.name}/data", status=202)
    again = await ada.done("erasure")

    assert second["status"] == "pending"
    assert (again["id"], again["report"]) == (second["id"], {})
    rest = datetime.fromisoformat(again["updated_at"]) - datetime.fromisoformat(ended["updated_at"])
    assert rest >= timedelta(seconds=2)


async def _check_entries(ada: Somebody, services: Services) -> None:
    entries, _ = await audit.page(services.db, Filter(owner=ada.name), limit=100, seen_by=None)
    acts = [entry.act for entry in entries]
    assert acts.count("erasure.requested") == acts.count("erasure.done") == 2
    assert "said by" not in str(entries)


async def test_nobody_erases_or_exports_another_one_without_the_permission(
    ada: Somebody, eve: Somebody
) -> None:
    await ada.ask("POST", "/threads", json={})
    job = await ada.done("export")
    for method, path in (
        ("DELETE", f"/api/users/{ada.name}/data"),
        ("POST", f"/api/users/{ada.name}/export"),
        ("GET", f"/api/users/{ada.name}/export"),
        ("DELETE", "/api/users/nobody/data"),
    ):
        told = await eve.ask(method, path, status=403)
        assert told["code"] == "permission_denied"
    for user in (ada.name, eve.name):
        await eve.ask("GET", f"/api/users/{user}/jobs/{job['id']}", status=404)
    assert (await ada.ask("POST", "/threads/count", json={})) == 1


async def test_who_may_erases_another_one(
    ada: Somebody, eve: Somebody, http: httpx.AsyncClient
) -> None:
    admin = Somebody(http, "admin")
    for who in (ada, eve, admin):
        await who.ask("POST", "/threads", json={"metadata": {"user_id": eve.name}})

    job = await admin.done("erasure", of=ada)

    assert job["report"]["sessions"] == 1
    counts = [await who.ask("POST", "/threads/count", json={}) for who in (ada, eve, admin)]
    # What names somebody, and is another one's, is the other one's.
    assert counts == [0, 1, 1]
    told = await admin.ask("GET", f"/api/audit?subject=user:{ada.name}")
    assert {entry["actor"] for entry in told["data"]} == {"admin", None}
    # Who was erased may know it.
    mine = await ada.ask("GET", "/api/audit?act=erasure.done")
    assert mine["data"][-1]["details"]["sessions"] == 1
    assert (await eve.ask("GET", "/api/audit?act=erasure.done"))["data"] == []


async def in_the_log(who: Somebody) -> list[dict[str, Any]]:
    """All that somebody sees of the audit log, page by page."""
    entries: list[dict[str, Any]] = []
    cursor = ""
    while True:
        page = await who.ask("GET", f"/api/audit?limit=3{cursor}")
        entries += page["data"]
        if not page["has_more"]:
            return entries
        cursor = f"&cursor={page['next_cursor']}"


async def test_threads_that_are_deleted_many_at_a_time_are_each_in_the_log(ada: Somebody) -> None:
    pruned = [(await ada.ask("POST", "/threads", json={}))["thread_id"] for _ in range(2)]
    everything = {"thread_ids": pruned, "strategy": "delete"}
    assert await ada.ask("POST", "/threads/prune", json=everything) == {"pruned_count": 2}
    assistant = await ada.ask("POST", "/assistants", json={"graph_id": "chat", "metadata": {}})
    thread = (await ada.ask("POST", "/threads", json={}))["thread_id"]
    run = {"assistant_id": assistant["assistant_id"], "input": {"messages": []}}
    await ada.ask("POST", f"/threads/{thread}/runs/wait", json=run)
    about = f"/assistants/{assistant['assistant_id']}"
    await ada.ask("DELETE", f"{about}?delete_threads=true", status=204)

    entries = await in_the_log(ada)
    assert {entry["subject"] for entry in entries} == {
        f"session:{id_}" for id_ in (*pruned, thread)
    }
    told = [(entry["act"], entry["actor"], entry["owner"]) for entry in entries]
    assert told == [("session.purged", ada.name, ada.name)] * 3


async def test_who_changes_where_a_webhook_leads_is_in_the_log_and_not_where(
    ada: Somebody, eve: Somebody
) -> None:
    hook = await ada.ask("POST", "/api/webhooks", json={"url": "https://1.1.1.1/hidden-place"})
    path, elsewhere = f"/api/webhooks/{hook['id']}", {"url": "https://1.1.1.1/hidden-too"}
    await ada.ask("PATCH", path, json={**elsewhere, "secret": None, "description": None})
    await eve.ask("PATCH", path, json=elsewhere, status=404)
    await ada.ask("DELETE", path, status=204)

    entries = await in_the_log(ada)
    assert [entry["act"].removeprefix("webhook.") for entry in entries] == [
        "deleted", "updated", "created",
    ]  # fmt: skip
    assert entries[1]["details"] == {"fields": ["url", "description"]}
    assert "hidden" not in json.dumps(entries)
    assert await in_the_log(eve) == []


async def test_what_matters_to_security_is_in_the_log_and_read_page_by_page(
    ada: Somebody, eve: Somebody
) -> None:
    session = (await ada.ask("POST", "/api/sessions", json={"name": "a secret name"}))["id"]
    about = f"/api/sessions/{session}/shares"
    link = await ada.ask("POST", about, json={"mode": "live", "password": "pass-word"})
    members = {"audience": "users", "users": [eve.name], "role": "viewer"}
    await ada.ask("POST", about, json=members)
    await eve.ask("DELETE", f"{about}/{link['id']}", status=404)
    await ada.ask("DELETE", f"{about}/users?user={eve.name}", status=204)
    await ada.ask("DELETE", f"{about}/{link['id']}", status=204)
    await ada.ask("DELETE", about, status=204)
    await ada.ask("GET", "/api/sessions/export")
    await ada.ask("DELETE", f"/api/sessions/{session}?purge=true", status=204)
    thread = (await ada.ask("POST", "/threads", json={}))["thread_id"]
    await ada.ask("DELETE", f"/threads/{thread}", status=204)
    # To delete what is shared is to share it no more, by either way; what is not shared says nothing of that.
    for audience in ({"mode": "live"}, members):
        shared = (await ada.ask("POST", "/api/sessions", json={}))["id"]
        await ada.ask("POST", f"/api/sessions/{shared}/shares", json=audience)
        if audience is members:
            await ada.ask("PATCH", f"/threads/{shared}", json={"metadata": {"status": "deleted"}})
        else:
            await ada.ask("DELETE", f"/api/sessions/{shared}", status=204)
    alone = (await ada.ask("POST", "/api/sessions", json={}))["id"]
    await ada.ask("DELETE", f"/api/sessions/{alone}", status=204)

    entries = await in_the_log(ada)

    assert [entry["act"] for entry in entries] == [
        "share.revoked", "member.added", "share.revoked", "share.created",
        "session.purged", "session.purged", "sessions.exported", "share.revoked", "share.revoked",
        "member.removed", "member.added", "share.created",
    ]  # fmt: skip
    text = json.dumps(entries)
    assert not any(word in text for word in ("secret name", "pass-word", link["url"]))
    assert (await eve.ask("GET", f"/api/audit?subject=session:{session}"))["data"] == []
    for wrong in ("cursor=x", "limit=0", "from=yesterday", "to=0.5", "limit=1001"):
        assert (
            await ada.ask("GET", f"/api/audit?{wrong}", status=400 if "cursor" in wrong else 422)
        )["code"]


async def test_an_export_has_all_that_is_a_users_and_only_that(
    ada: Somebody, eve: Somebody, services: Services
) -> None:
    await ada.settle()
    await eve.settle()
    await ada.visit(eve)

    job = await ada.done("export")
    text = await ada.ask("GET", f"/api/users/{ada.name}/export")

    lines = [json.loads(line) for line in text.splitlines()]
    assert job["status"] == "success"
    counted = {kind: sum(line["type"] == kind for line in lines) for kind in job["report"]}
    assert counted == job["report"]
    assert {line["type"] for line in lines} == {
        "user", "session", "message", "feedback", "file", "file_data", "item", "assistant",
        "cron", "webhook", "audit",
    }  # fmt: skip
    assert f"said by {ada.name}" in [line.get("content") for line in lines]
    assert f"said by {eve.name}" not in text
    assert "secret" not in text
    # Asked for again while it is there: another one takes its place.
    again = await ada.done("export")
    assert again["id"] != job["id"]
    await ada.ask("GET", f"/api/users/{ada.name}/jobs/{job['id']}", status=404)


async def test_an_erasure_that_is_broken_off_is_gone_on_with_by_the_next(
    ada: Somebody, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(120):
        await threads.create(
            services.db, str(uuid.uuid4()), metadata={"owner": ada.name}, access=EVERYTHING
        )
    # Each job is told to stop after its first step.
    monkeypatch.setattr(user_jobs, "SLICE_SECONDS", 0.0)

    job = await ada.done("erasure")

    assert job["status"] == "success"
    assert job["report"]["sessions"] == 120


async def test_an_erasure_takes_no_items_of_those_whose_label_the_identity_only_looks_like(
    http: httpx.AsyncClient, services: Services
) -> None:
    one = f"u{uuid.uuid4().hex[:8]}"
    dotted, encoded = f"{one}.b", f"{one}%2Eb"
    mine, theirs = label_of(dotted), label_of(encoded)
    items = [(one,), (one, "b"), (one, "b", "c"), (mine,), (mine, "n"), (theirs, "n")]
    for namespace in items:
        await services.items.aput(namespace, "k", {"x": 1})

    async def left() -> list[tuple[str, ...]]:
        return [n for n in items if await services.items.aget(n, "k")]

    assert (await Somebody(http, encoded).done("erasure"))["report"]["items"] == 1
    assert await left() == items[:5]
    assert (await Somebody(http, dotted).done("erasure"))["report"]["items"] == 2
    assert await left() == items[:3]
    assert (await Somebody(http, one).done("erasure"))["report"]["items"] == 3
