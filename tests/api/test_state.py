from typing import Any
from uuid import uuid4

import httpx
import pytest
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import BadRequestError, ConflictError, NotFoundError

from api.bootstrap import Services
from store import new_runs, threads
from store.access import EVERYTHING
from tests.api.conftest import Run
from tests.api.test_threads import UNKNOWN, _new_run

STATE_FIELDS = [
    "values", "next", "tasks", "metadata", "created_at", "checkpoint", "parent_checkpoint",
    "interrupts", "checkpoint_id", "parent_checkpoint_id",
]  # fmt: skip


@pytest.fixture
async def thread_id(client: LangGraphClient) -> str:
    return (await client.threads.create())["thread_id"]


async def test_a_thread_without_a_graph_has_an_empty_state(
    client: LangGraphClient, thread_id: str
) -> None:
    state: Any = await client.threads.get_state(thread_id)

    assert list(state) == STATE_FIELDS
    assert (state["values"], state["next"], state["checkpoint"]) == ({}, [], None)
    assert await client.threads.get_history(thread_id) == []
    with pytest.raises(BadRequestError):
        await client.threads.update_state(thread_id, {"log": []})


async def test_a_state_names_its_checkpoint_and_that_before(
    client: LangGraphClient, run: Run, thread_id: str
) -> None:
    await run(thread_id, "steps", {"text": "a"})

    state = await client.threads.get_state(thread_id)
    before = await client.threads.get_state(
        thread_id,
        checkpoint_id=state["parent_checkpoint"]["checkpoint_id"],  # type: ignore[index]
    )

    assert state["values"] == {"text": "a", "log": ["first", "second"]}
    assert state["checkpoint"]["thread_id"] == thread_id
    assert state["checkpoint"]["checkpoint_ns"] == ""
    assert before["values"] == {"text": "a", "log": ["first"]}
    assert before["next"] == ["second"]
    assert before["tasks"][0]["result"] == {"log": ["second"]}
    assert before == await client.threads.get_state(thread_id, checkpoint=before["checkpoint"])


async def test_an_interrupt_shows_in_the_state_and_in_its_task(
    client: LangGraphClient, run: Run, thread_id: str
) -> None:
    await run(thread_id, "ask", {"text": "a"})

    state = await client.threads.get_state(thread_id)

    (interrupt,) = state["interrupts"]
    assert interrupt["value"] == {"question": "Go on?"}
    assert list(interrupt) == ["id", "value"]
    assert state["tasks"][0]["interrupts"] == [interrupt]
    assert state["next"] == ["ask"]


async def test_a_task_shows_its_subgraph_by_address_or_whole(
    client: LangGraphClient, run: Run, thread_id: str
) -> None:
    await run(thread_id, "nested_ask", {"text": "a"})

    (by_address,) = (await client.threads.get_state(thread_id))["tasks"]
    (whole,) = (await client.threads.get_state(thread_id, subgraphs=True))["tasks"]
    address: Any = by_address["checkpoint"]
    inner: Any = await client.threads.get_state(thread_id, checkpoint=address)

    assert by_address["state"] is None
    assert whole["checkpoint"] is None
    assert whole["state"] == inner
    assert inner["values"] == {"text": "a", "log": ["first"]}
    assert list(inner["checkpoint"]["checkpoint_map"]) == ["", address["checkpoint_ns"]]
    history = await client.threads.get_history(thread_id, checkpoint=address)
    assert history[0] == inner


async def test_a_failed_task_shows_its_error(
    client: LangGraphClient, run: Run, thread_id: str
) -> None:
    with pytest.raises(ValueError, match="boom!"):
        await run(thread_id, "boom", {"text": "a"})

    state = await client.threads.get_state(thread_id)

    assert state["tasks"][0]["error"] == "ValueError('boom!')"


async def test_history_goes_back_from_the_newest_state(
    client: LangGraphClient, http: httpx.AsyncClient, run: Run, thread_id: str
) -> None:
    await run(thread_id, "steps", {"text": "a"})
    path = f"/threads/{thread_id}/history"

    whole = await client.threads.get_history(thread_id, limit=10)
    ids = [state["checkpoint_id"] for state in whole]  # type: ignore[typeddict-item]

    async def listed(**search: Any) -> list[str]:
        response = await http.post(path, json={"limit": 10, **search})
        return [state["checkpoint_id"] for state in response.json()]

    assert [state["next"] for state in whole] == [[], ["second"], ["first"], ["__start__"]]
    assert whole[-1]["parent_checkpoint"] is None
    assert len((await http.post(path, json={})).json()) == 1
    assert await listed(before=ids[1]) == ids[2:]
    assert await listed(before={"checkpoint_id": ids[1]}) == ids[2:]
    assert await listed(before={"configurable": {"checkpoint_id": ids[1]}}) == ids[2:]
    assert await listed(metadata={"source": "input"}) == ids[-1:]
    by_query = await http.get(path, params={"limit": 2, "before": ids[0]})
    assert [state["checkpoint_id"] for state in by_query.json()] == ids[1:3]


async def test_an_update_is_a_new_checkpoint_and_settles_the_thread(
    client: LangGraphClient, run: Run, thread_id: str
) -> None:
    await run(thread_id, "ask", {"text": "a"})

    written: Any = await client.threads.update_state(thread_id, {"log": ["mine"]}, as_node="ask")

    thread = await client.threads.get(thread_id)
    state = await client.threads.get_state(thread_id)
    assert written["checkpoint"] == state["checkpoint"]
    assert written["configurable"] == state["checkpoint"]
    assert written["checkpoint_id"] == state["checkpoint"]["checkpoint_id"]
    assert thread["values"] == {"text": "a", "log": ["first", "mine"]}
    assert (thread["status"], thread["interrupts"]) == ("idle", {})
    assert state["metadata"]["graph_id"] == "ask"  # type: ignore[index]


async def test_an_update_can_fork_and_leave_the_thread_waiting(
    client: LangGraphClient, run: Run, thread_id: str
) -> None:
    await run(thread_id, "steps", {"text": "a"})
    start = (await client.threads.get_history(thread_id, limit=10))[-2]

    await client.threads.update_state(
        thread_id, None, as_node="first", checkpoint=start["checkpoint"]
    )

    thread = await client.threads.get(thread_id)
    state = await client.threads.get_state(thread_id)
    assert state["parent_checkpoint"] == start["checkpoint"]
    assert state["next"] == ["second"]
    assert thread["status"] == "interrupted"


@pytest.mark.parametrize(
    "update",
    [
        {"values": {"log": ["x"]}, "as_node": "nobody"},
        {"values": []},
        {"values": {"log": 5}},
        {"values": {"log": ["x"]}, "checkpoint": {"checkpoint_ns": "nobody:1"}},
    ],
)
async def test_an_update_that_the_graph_refuses_changes_nothing(
    client: LangGraphClient,
    http: httpx.AsyncClient,
    run: Run,
    thread_id: str,
    update: dict[str, Any],
) -> None:
    await run(thread_id, "steps", {"text": "a"})
    before = await client.threads.get_state(thread_id)

    refused = await http.post(f"/threads/{thread_id}/state", json=update)

    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_update")
    assert await client.threads.get_state(thread_id) == before


async def test_an_update_of_a_checkpoint_that_is_not_there_is_refused(
    client: LangGraphClient, run: Run, thread_id: str
) -> None:
    await run(thread_id, "steps", {"text": "a"})

    with pytest.raises(NotFoundError):
        await client.threads.update_state(thread_id, {"log": ["x"]}, checkpoint_id="nothing")

    assert (await client.threads.get_state(thread_id))["values"]["log"] == ["first", "second"]  # type: ignore[call-overload]


async def test_a_run_from_a_checkpoint_that_is_not_there_is_refused(
    client: LangGraphClient, run: Run, thread_id: str
) -> None:
    await run(thread_id, "steps", {"text": "a"})

    for more in (
        {"checkpoint_id": str(uuid4())},
        {"config": {"configurable": {"checkpoint_id": str(uuid4())}}},
    ):
        with pytest.raises(NotFoundError):
            await client.runs.create(thread_id, "steps", input={"text": "b"}, **more)

    assert await client.runs.list(thread_id) == []
    assert (await client.threads.get_state(thread_id))["values"]["text"] == "a"  # type: ignore[call-overload]


async def test_a_run_whose_checkpoint_was_deleted_while_it_waited_fails_and_changes_nothing(
    client: LangGraphClient, services: Services, run: Run, thread_id: str
) -> None:
    await run(thread_id, "steps", {"text": "a"})
    first = (await client.threads.get_history(thread_id, limit=10))[-1]["checkpoint"]
    assert first["checkpoint_id"]
    queued = await client.runs.create(
        thread_id,
        "steps",
        input={"text": "b"},
        checkpoint_id=first["checkpoint_id"],
        after_seconds=60,
    )
    await services.db.execute(
        "DELETE FROM checkpoints WHERE checkpoint_id = %(id)s", {"id": first["checkpoint_id"]}
    )
    await services.db.execute("UPDATE run SET not_before = now() WHERE true", {})
    await client.runs.join(thread_id, queued["run_id"])

    assert (await client.runs.get(thread_id, queued["run_id"]))["status"] == "error"
    assert (await client.threads.get_state(thread_id))["values"]["text"] == "a"  # type: ignore[call-overload]


async def test_a_busy_thread_is_not_updated(
    client: LangGraphClient, services: Services, run: Run, thread_id: str
) -> None:
    await run(thread_id, "steps", {"text": "a"})
    await new_runs.enqueue(services.db, _new_run(thread_id))

    with pytest.raises(ConflictError):
        await client.threads.update_state(thread_id, {"log": ["x"]})


async def test_a_state_of_which_there_is_none_is_empty(
    client: LangGraphClient, run: Run, thread_id: str
) -> None:
    await run(thread_id, "steps", {"text": "a"})

    state = await client.threads.get_state(thread_id, checkpoint_id="nothing")

    assert (state["values"], state["next"]) == ({}, [])
    assert state["checkpoint"]["checkpoint_id"] == "nothing"
    with pytest.raises(NotFoundError):
        await client.threads.get_state(UNKNOWN)


async def test_a_thread_whose_graph_is_gone_is_listed_without_values(
    client: LangGraphClient, services: Services, run: Run, thread_id: str
) -> None:
    await run(thread_id, "steps", {"text": "a"})
    await threads.update(services.db, thread_id, metadata={"graph_id": "gone"}, access=EVERYTHING)

    assert (await client.threads.get(thread_id))["values"] is None
    assert len(await client.threads.search()) == 1
    with pytest.raises(NotFoundError):
        await client.threads.get_state(thread_id)
    with pytest.raises(NotFoundError):
        await client.threads.update_state(thread_id, {"log": ["x"]})


async def test_a_state_that_cannot_be_read_does_not_hide_other_threads(
    client: LangGraphClient, services: Services, run: Run, thread_id: str
) -> None:
    healthy = (await client.threads.create())["thread_id"]
    for each in (thread_id, healthy):
        await run(each, "steps", {"text": "a"})
    await services.db.execute(
        "UPDATE checkpoint_blobs SET blob = '\\x00' , type = 'nonsense'"
        " WHERE thread_id = %(thread_id)s",
        {"thread_id": thread_id},
    )

    found = {thread["thread_id"]: thread["values"] for thread in await client.threads.search()}

    assert found == {healthy: {"text": "a", "log": ["first", "second"]}, thread_id: None}
    with pytest.raises(ConflictError):
        await client.threads.get_state(thread_id)
    with pytest.raises(ConflictError):
        await client.threads.get_history(thread_id)


async def test_a_state_shows_what_is_selected(
    client: LangGraphClient, http: httpx.AsyncClient, run: Run
) -> None:
    thread_id = (await client.threads.create())["thread_id"]
    await run(thread_id, "steps", {"text": "a"})
    url = f"/threads/{thread_id}"
    whole = (await http.get(f"{url}/state")).json()
    checkpoint = {"checkpoint_id": whole["checkpoint_id"]}

    async def shown(*select: str) -> Any:
        by_get = await http.get(f"{url}/state", params={"select": select})
        by_post = await http.post(
            f"{url}/state/checkpoint", json={"checkpoint": checkpoint, "select": select}
        )
        at = await http.get(f"{url}/state/{checkpoint['checkpoint_id']}", params={"select": select})
        history = await http.post(f"{url}/history", json={"select": select})
        assert by_get.json() == by_post.json() == at.json() == history.json()[0]
        return by_get.json()

    assert await shown() == whole
    assert await shown("next", "checkpoint") == {"next": [], "checkpoint": whole["checkpoint"]}
    assert await shown("values.log", "values.nothing") == {"values": {"log": ["first", "second"]}}
    assert await shown("values.log", "values") == {"values": whole["values"]}
    for wrong in ("nothing", "values.", "next,tasks"):
        refused = await http.get(f"{url}/state", params={"select": wrong})
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_input")


async def test_a_history_is_one_state_unless_more_are_asked_for(
    http: httpx.AsyncClient, client: LangGraphClient, run: Run
) -> None:
    thread_id = (await client.threads.create())["thread_id"]
    await run(thread_id, "steps", {"text": "a"})
    url = f"/threads/{thread_id}/history"

    assert len((await http.get(url)).json()) == len((await http.post(url, json={})).json()) == 1
    assert len((await http.post(url, json={"before": {}, "limit": 9})).json()) == 4
    refused = await http.post(url, json={"before": {"nothing": 1}})
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_input")
    assert (await http.patch(f"/threads/{thread_id}/state", json={})).status_code == 405
