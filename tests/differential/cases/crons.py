"""Crons, §1.4 of the contract: none of them comes due here."""

from typing import Any

from tests.differential.cases.assistants import own
from tests.differential.cases.system import NOBODY
from tests.differential.registry import add, case, on_a_thread, single
from tests.differential.talk import Talk

#: Once in a leap year.
NEVER = "0 0 29 2 *"
CRON = {"assistant_id": "steps", "schedule": NEVER, "input": {"text": "x"}}

single(
    __name__,
    {
        "a cron without a schedule": ("POST", "/runs/crons", {"assistant_id": "steps"}),
        "a cron without an assistant": ("POST", "/runs/crons", {"schedule": NEVER}),
        "a cron of an unknown graph": ("POST", "/runs/crons", {**CRON, "assistant_id": "nope"}),
        "a cron of an assistant that is not there": (
            "POST",
            "/runs/crons",
            {**CRON, "assistant_id": NOBODY},
        ),
        "a cron with a schedule of words": ("POST", "/runs/crons", {**CRON, "schedule": "nope"}),
        "a cron with a minute of 61": ("POST", "/runs/crons", {**CRON, "schedule": "61 * * * *"}),
        "a cron with six fields": ("POST", "/runs/crons", {**CRON, "schedule": "* * * * * *"}),
        "a cron with an empty schedule": ("POST", "/runs/crons", {**CRON, "schedule": ""}),
        "a cron in an unknown time zone": (
            "POST",
            "/runs/crons",
            {**CRON, "timezone": "Moon/Sea"},
        ),
        "a cron with an end that is a word": ("POST", "/runs/crons", {**CRON, "end_time": "x"}),
        "a cron with an end in the past": (
            "POST",
            "/runs/crons",
            {**CRON, "end_time": "2020-01-01T00:00:00Z"},
        ),
        "a cron with an unknown completion": (
            "POST",
            "/runs/crons",
            {**CRON, "on_run_completed": "burn"},
        ),
        "a cron enabled by a word": ("POST", "/runs/crons", {**CRON, "enabled": "x"}),
        "a cron whose metadata is a list": ("POST", "/runs/crons", {**CRON, "metadata": []}),
        "a cron with an unknown stream mode": (
            "POST",
            "/runs/crons",
            {**CRON, "stream_mode": "nope"},
        ),
        "a cron with a context and a configurable": (
            "POST",
            "/runs/crons",
            {**CRON, "context": {"a": 1}, "config": {"configurable": {"a": 1}}},
        ),
        "a cron on a thread that is not there": (
            "POST",
            f"/threads/{NOBODY}/runs/crons",
            CRON,
        ),
        "a cron on a thread by an id that is no uuid": ("POST", "/threads/nope/runs/crons", CRON),
        "a cron that is not there": ("GET", f"/runs/crons/{NOBODY}"),
        "a cron by an id that is no uuid": ("GET", "/runs/crons/nope"),
        "a cron that is not there is not changed": (
            "PATCH",
            f"/runs/crons/{NOBODY}",
            {"enabled": False},
        ),
        "a cron that is not there is not deleted": ("DELETE", f"/runs/crons/{NOBODY}"),
        "crons with a limit of 0": ("POST", "/runs/crons/search", {"limit": 0}),
        "crons with a limit of 1001": ("POST", "/runs/crons/search", {"limit": 1001}),
        "crons by an unknown order": ("POST", "/runs/crons/search", {"sort_by": "nope"}),
        "crons with unknown fields": ("POST", "/runs/crons/search", {"select": ["nope"]}),
        "crons of an assistant by its name": (
            "POST",
            "/runs/crons/search",
            {"assistant_id": "steps"},
        ),
        "crons of a thread that is not there": (
            "POST",
            "/runs/crons/search",
            {"thread_id": NOBODY},
        ),
    },
)
on_a_thread(
    __name__,
    {
        "a cron on a thread with an unknown strategy": (
            "POST",
            "/threads/{thread}/runs/crons",
            {**CRON, "multitask_strategy": "nope"},
        ),
    },
)


@case
async def a_cron_is_made_read_and_deleted(talk: Talk) -> None:
    made = await talk.post("/runs/crons", CRON)
    path = f"/runs/crons/{made['cron_id']}"
    await talk.get(path)
    await talk.delete(path)
    await talk.get(path)
    await talk.delete(path)


@case
async def a_cron_with_every_field(talk: Talk) -> None:
    body = {
        **CRON,
        "timezone": "Europe/Berlin",
        "end_time": "2099-01-01T00:00:00Z",
        "metadata": {"mark": talk.mark, "cron_id": "x"},
        "config": {"tags": ["t"], "recursion_limit": 5, "configurable": {"a": 1}},
        "interrupt_before": ["second"],
        "interrupt_after": "*",
        "on_run_completed": "keep",
        "enabled": False,
        "stream_mode": ["values", "updates"],
        "stream_subgraphs": True,
        "stream_resumable": True,
        "durability": "sync",
    }
    made = await talk.post("/runs/crons", body)
    await talk.delete(f"/runs/crons/{made['cron_id']}")


@case
async def a_cron_on_a_thread(talk: Talk) -> None:
    thread_id = await talk.thread()
    body = {**CRON, "multitask_strategy": "rollback", "metadata": {"a": 1}}
    made = await talk.post(f"/threads/{thread_id}/runs/crons", body)
    await talk.post("/runs/crons/search", {"thread_id": thread_id})
    await talk.delete(f"/runs/crons/{made['cron_id']}")


@case
async def the_crons_of_a_thread_go_with_it(talk: Talk) -> None:
    thread_id = await talk.thread()
    made = await talk.post(f"/threads/{thread_id}/runs/crons", CRON, unseen=True)
    await talk.delete(f"/threads/{thread_id}", unseen=True)
    await talk.get(f"/runs/crons/{made['cron_id']}")


@case
async def the_crons_of_an_assistant_go_with_it(talk: Talk) -> None:
    assistant = await talk.post("/assistants", {"graph_id": "steps"}, unseen=True)
    body = {**CRON, "assistant_id": assistant["assistant_id"]}
    made = await talk.post("/runs/crons", body, unseen=True)
    await talk.delete(f"/assistants/{assistant['assistant_id']}", unseen=True)
    await talk.get(f"/runs/crons/{made['cron_id']}")


@case
async def a_cron_is_changed(talk: Talk) -> None:
    made = await talk.post("/runs/crons", {**CRON, "metadata": {"a": 1, "b": 1}}, unseen=True)
    path = f"/runs/crons/{made['cron_id']}"
    await talk.patch(path, {"enabled": False})
    await talk.patch(path, {"schedule": "0 12 29 2 *", "timezone": "Asia/Tokyo"})
    await talk.patch(path, {"metadata": {"b": 2}})
    await talk.patch(path, {"input": {"text": "y"}, "config": {"configurable": {"z": 1}}})
    await talk.patch(path, {"end_time": "2099-01-01T00:00:00Z", "on_run_completed": "keep"})
    await talk.patch(path, {"end_time": None})
    await talk.delete(path, unseen=True)


@case
async def a_cron_is_changed_wrongly(talk: Talk) -> None:
    made = await talk.post("/runs/crons", CRON, unseen=True)
    path = f"/runs/crons/{made['cron_id']}"
    for change in (
        {},
        {"schedule": "nope"},
        {"timezone": "Moon/Sea"},
        {"enabled": "x"},
        {"nobody": "knows"},
        {"end_time": "2020-01-01T00:00:00Z"},
    ):
        await talk.patch(path, change)
    await talk.delete(path, unseen=True)


async def _three(talk: Talk) -> list[str]:
    ids = []
    for number in range(3):
        body = {**CRON, "metadata": {"mark": talk.mark, "n": number}, "enabled": number != 1}
        ids.append(str((await talk.post("/runs/crons", body, unseen=True))["cron_id"]))
    return ids


async def _away(talk: Talk, ids: list[str]) -> None:
    for cron_id in ids:
        await talk.delete(f"/runs/crons/{cron_id}", unseen=True)


@case
async def crons_are_found_in_pages(talk: Talk) -> None:
    ids = await _three(talk)
    mine = {"metadata": {"mark": talk.mark}, "select": ["metadata", "enabled"]}
    for page in ({}, {"limit": 2}, {"limit": 2, "offset": 2}, {"offset": 9}):
        await talk.post("/runs/crons/search", {**mine, **page})
    for wanted in ({"enabled": True}, {"enabled": False}, {"assistant_id": own("steps")}):
        await talk.post("/runs/crons/search", {**mine, **wanted})
        await talk.post("/runs/crons/count", {"metadata": {"mark": talk.mark}, **wanted})
    await _away(talk, ids)


def _sorted_by(order: dict[str, str]) -> Any:
    async def play(talk: Talk) -> None:
        ids = await _three(talk)
        body = {"metadata": {"mark": talk.mark}, "select": ["metadata"], **order}
        await talk.post("/runs/crons/search", body)
        await _away(talk, ids)

    return play


for key in ("created_at", "updated_at"):
    for direction in ("asc", "desc"):
        order = {"sort_by": key, "sort_order": direction}
        add(f"crons by {key}, {direction}", _sorted_by(order), __name__)
