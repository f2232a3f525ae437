"""Files in messages: their ids everywhere, what they hold in the request to the model alone."""

import base64
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.acceptance.conftest import Sql
from tests.acceptance.sse import collect
from tests.openai_server import OpenAIServer, Reply, openai_server

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40
WAV = b"RIFF\x00\x00\x00\x00WAVEfmt " + bytes(range(256)) * 40


@pytest.fixture
async def model(model_port: int) -> AsyncIterator[OpenAIServer]:
    """The model that the servers were told of."""
    async with openai_server(model_port) as model:
        yield model


async def test_a_file_is_inflated_inside_the_call_of_the_model_and_nowhere_else(
    http: httpx.AsyncClient, model: OpenAIServer, sql: Sql
) -> None:
    model.replies.extend([Reply(tokens=("A cat.",)), Reply(tokens=("Still a cat.",))])
    ids = []
    for name, data in (("cat.png", PNG), ("meow.wav", WAV), ("notes.txt", "猫的笔记".encode())):
        made = await http.post("/api/files", files={"file": (name, data)})
        assert made.status_code == 200, made.text
        ids.append(made.json()["id"])
    session = (await http.post("/api/sessions", json={"assistant_id": "agent"})).json()["id"]

    first = await http.post(
        f"/api/sessions/{session}/messages", json={"query": "What is it?", "attachments": ids}
    )
    assert first.json()["response"] == "A cat."
    # By a run, with everything streamed that a run can stream.
    told = await collect(
        http,
        "POST",
        f"/threads/{session}/runs/stream",
        json={
            "assistant_id": "agent",
            "input": {"messages": [{"role": "user", "content": "And now?"}]},
            "stream_mode": ["messages-tuple", "values", "events", "debug"],
        },
    )

    encoded = [base64.b64encode(data).decode() for data in (PNG, WAV)]
    for asked in model.requests:
        said = asked["messages"][1]["content"]
        assert said[0] == {"type": "text", "text": "What is it?"}
        assert said[1]["image_url"]["url"] == f"data:image/png;base64,{encoded[0]}"
        assert said[2]["input_audio"] == {"data": encoded[1], "format": "wav"}
        assert said[3]["text"] == "notes.txt:\n猫的笔记"
    seen = repr([frame.data for frame in told])
    assert ids[0] in seen
    assert not any(each[:200] in seen for each in encoded)
    for table in ("message", "run", "checkpoints", "checkpoint_writes", "checkpoint_blobs"):
        kept = repr(sql(f"SELECT t::text FROM {table} AS t"))
        assert not any(each[:200] in kept for each in encoded)
        assert "猫的笔记" not in kept


async def test_a_file_is_not_given_to_a_thread_that_it_was_not_sent_in(
    http: httpx.AsyncClient, model: OpenAIServer
) -> None:
    model.replies.append(Reply(tokens=("What file?",)))
    thread = (await http.post("/threads", json={})).json()["thread_id"]
    block = {"type": "image", "file_id": "00000000-0000-7000-8000-000000000000"}

    await http.post(
        f"/threads/{thread}/runs/wait",
        json={
            "assistant_id": "agent",
            "input": {"messages": [{"role": "user", "content": [block]}]},
        },
    )

    [said] = model.requests[0]["messages"][1]["content"]
    assert said == {"type": "text", "text": "[a file that is not there any more]"}
