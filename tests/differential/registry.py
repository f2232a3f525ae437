"""Where cases are named."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from tests.differential.talk import Case, Talk

CASES: dict[str, Case] = {}


def case(play: Callable[[Talk], Awaitable[Any]]) -> Callable[[Talk], Awaitable[Any]]:
    """Take a function in as a case; its name is the sentence."""
    add(play.__name__.strip("_").replace("_", " "), play, play.__module__)
    return play


def add(name: str, play: Callable[[Talk], Awaitable[Any]], module: str) -> None:
    """Take in a case under a name of its own."""
    assert name not in CASES, f"two cases are named {name!r}"
    CASES[name] = Case(name, module.rpartition(".")[2], play)


def single(module: str, asked: Mapping[str, tuple[Any, ...]], **more: Any) -> None:
    """
    Take in cases of one request each.

    Args:
        asked: The request (method, path, body) by the case's name; `{mark}` is the talk's own word.
    """
    for name, (method, path, *body) in asked.items():

        async def play(
            talk: Talk, method: str = method, path: str = path, body: list[Any] = body
        ) -> None:
            await talk.ask(method, path.replace("{mark}", talk.mark), *body, **more)

        add(name, play, module)


def on_a_thread(module: str, asked: Mapping[str, tuple[Any, ...]]) -> None:
    """Take in cases of one request each on a new thread, which is `{thread}` in the path."""
    for name, (method, path, *body) in asked.items():

        async def play(
            talk: Talk, method: str = method, path: str = path, body: list[Any] = body
        ) -> None:
            thread_id = await talk.thread()
            await talk.ask(method, path.replace("{thread}", thread_id), *body)

        add(name, play, module)
