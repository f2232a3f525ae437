"""What tests say to graphs, and read in their answers."""

from typing import Any

from tests.acceptance.sse import Frame


def says(text: str) -> dict[str, Any]:
    """The input of a graph of messages."""
    return {"messages": [{"role": "user", "content": text}]}


def contents(values: Any) -> list[str]:
    """The texts of the messages of a state's values."""
    return [message["content"] for message in values["messages"]]


def tokens(frames: list[Frame]) -> list[str]:
    """The pieces of text that came, in their order."""
    return [frame.data[0]["content"] for frame in frames if frame.name == "messages"]
