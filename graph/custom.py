"""What langgraph.json names beside graphs, of the user's own code: a store, and what embeds texts."""

import importlib
import importlib.util
import inspect
from collections.abc import AsyncIterator, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from pathlib import Path
from typing import Any, TypeVar

from langchain_openai import OpenAIEmbeddings
from langgraph.store.base import Embeddings, ensure_embeddings

from graph.factory import reason, variable
from graph.persistence import is_target
from store.errors import InvalidInputError

Kind = TypeVar("Kind")


@asynccontextmanager
async def opened(target: str, root: Path, kind: type[Kind], name: str) -> AsyncIterator[Kind]:
    """
    What a variable holds, or what calling it gives, on the running event loop.

    A function may be async; what it returns may be a context manager around what is wanted, which
    is then closed after the block.

    Args:
        kind: What is wanted.
        name: Where in langgraph.json the target is, for messages.

    Raises:
        InvalidInputError: It cannot be loaded, or it is something else.
    """
    made = _load(target, root, name)
    if not isinstance(made, kind) and callable(made):
        with _said_of(name):
            made = made()
            made = await made if inspect.isawaitable(made) else made
    if isinstance(made, kind):
        yield made
    elif isinstance(made, AbstractAsyncContextManager):
        async with made as inner:
            yield _of(kind, inner, name)
    elif isinstance(made, AbstractContextManager):
        with made as inner:
            yield _of(kind, inner, name)
    else:
        yield _of(kind, made, name)


def embeddings(target: str, root: Path) -> Embeddings:
    """
    What embeds texts: an `Embeddings` or a function, sync or async, from texts to vectors.

    Args:
        target: A variable of a file or a module, or ``provider:model``. OpenAI's also of every
            server that speaks like it, by ``OPENAI_BASE_URL``; other providers by `langchain`.

    Raises:
        InvalidInputError: It cannot be loaded.
    """
    name = "store.index.embed"
    with _said_of(name):
        if _is_variable(target):
            found: Any = _load(target, root, name)
            made: Any = found() if inspect.isclass(found) else found
            if not isinstance(made, Embeddings) and not callable(made):
                raise InvalidInputError(
                    f"langgraph.json: `{name}` gives a {type(made).__name__}, which embeds nothing"
                )
            return ensure_embeddings(made)
        provider, _, model = target.partition(":")
        if provider == "openai":
            # Texts as they are: the ids of tokens are known to OpenAI's own server alone, and making
            # them needs a file from the network.
            return OpenAIEmbeddings(model=model, check_embedding_ctx_length=False)
        return ensure_embeddings(target)


def _is_variable(target: str) -> bool:
    location, _, name = target.rpartition(":")
    if location.endswith(".py") or "/" in location:
        return True
    # A provider may be called as its package is: that has no variable of a model's name.
    if not is_target(target) or importlib.util.find_spec(location.split(".")[0]) is None:
        return False
    return hasattr(importlib.import_module(location), name)


def _load(target: str, root: Path, name: str) -> Any:
    with _said_of(name):
        return variable(target, root)


@contextmanager
def _said_of(name: str) -> Iterator[None]:
    """Say of what the user's code raises which key of langgraph.json led to it."""
    try:
        yield
    except InvalidInputError:
        raise
    except (Exception, SystemExit) as error:  # a user's module raises anything
        raise InvalidInputError(f"langgraph.json: `{name}`: {reason(error)}") from error


def _of(kind: type[Kind], found: Any, name: str) -> Kind:
    if not isinstance(found, kind):
        raise InvalidInputError(
            f"langgraph.json: `{name}` gives a {type(found).__name__}, not a {kind.__name__}"
        )
    return found
