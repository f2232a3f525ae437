"""
What we use of LangGraph, LangChain and uvicorn that is private there: an upgrade that takes a name fails here, with it.

pyproject.toml bounds their versions for that reason; a bound is raised once these pass.
"""

import ast
import importlib
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langgraph_sdk import Auth
from langgraph_sdk.encryption import Encryption

ROOT = Path(__file__).parents[2]
#: Modules that are private, and names that are; below a class what we override or call of it.
NAMES = [
    "langchain_core.language_models._compat_bridge:_accumulate",
    "langchain_core.language_models._compat_bridge:_accumulate_usage",
    "langchain_core.language_models._compat_bridge:_finalize_block",
    "langchain_core.language_models._compat_bridge:_iter_protocol_blocks",
    "langchain_core.language_models._compat_bridge:_start_skeleton",
    "langchain_core.language_models._compat_bridge:_to_content_delta",
    "langchain_core.language_models._compat_bridge:message_to_events",
    "langchain_core.language_models.chat_models:BaseChatModel._agenerate",
    "langchain_core.language_models.chat_models:BaseChatModel._astream",
    "langgraph._internal._serde:STRICT_MSGPACK_ENABLED",
    "langgraph.checkpoint.base.id:_last_v6_timestamp",
    "langgraph.checkpoint.postgres.aio:AsyncPostgresSaver._build_delta_channels_writes_history",
    "langgraph.checkpoint.postgres.aio:AsyncPostgresSaver._cursor",
    "langgraph.checkpoint.postgres.aio:AsyncPostgresSaver._load_blobs",
    "langgraph.checkpoint.postgres.aio:AsyncPostgresSaver._load_checkpoint_tuple",
    "langgraph.checkpoint.postgres.aio:AsyncPostgresSaver._load_writes",
    "langgraph.checkpoint.postgres.aio:AsyncPostgresSaver._migrate_pending_sends",
    "langgraph.checkpoint.serde.types:_DeltaSnapshot",
    "langgraph.graph.message:_messages_delta_reducer",
    "langgraph.pregel._checkpoint:achannels_from_checkpoint",
    "langgraph.store.base:_ensure_refresh",
    "langgraph.store.base:_ensure_ttl",
    "langgraph.store.postgres.aio:AsyncPostgresStore._cursor",
    "langgraph.store.postgres.aio:AsyncPostgresStore._execute_batch",
    "langgraph.store.postgres.aio:AsyncPostgresStore._get_filter_condition",
    "langgraph.store.postgres.aio:AsyncPostgresStore._prepare_batch_PUT_queries",
    "langgraph.store.postgres.aio:AsyncPostgresStore._prepare_batch_search_queries",
    "langgraph.store.postgres.base:_decode_ns_bytes",
    "langgraph.store.postgres.base:_row_to_search_item",
    "langgraph.stream._convert:convert_to_protocol_event",
    "langgraph.stream._mux:StreamMux",
    "langgraph_sdk:Priority._assign_handler",
    "langgraph_sdk.runtime:_ExecutionRuntime",
    "langgraph_sdk.runtime:_ReadRuntime",
    "uvicorn.protocols.websockets.websockets_sansio_impl:WebSocketsSansIOProtocol.handle_connect",
]
#: The same, of what has them once it is made.
ATTRIBUTES: list[tuple[type[Any], str]] = [
    (Auth, "_authenticate_handler"),
    (Encryption, "_blob_decryptor"),
    (Encryption, "_blob_encryptor"),
    (Encryption, "_context_handler"),
]
#: Who has them, and with which of their versions a release may take them away.
BOUNDED = {
    "langchain-core",
    "langgraph",
    "langgraph-checkpoint",
    "langgraph-checkpoint-postgres",
    "langgraph-sdk",
    "uvicorn",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_private_name_that_we_use_is_there(name: str) -> None:
    module, _, path = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        assert hasattr(found, part), f"{name} is gone"
        found = getattr(found, part)


@pytest.mark.filterwarnings("ignore:The Encryption API is in beta")
@pytest.mark.parametrize(("owner", "name"), ATTRIBUTES)
def test_a_private_attribute_that_we_use_is_there(owner: type[Any], name: str) -> None:
    assert hasattr(owner(), name), f"{owner.__name__}.{name} is gone"


def test_every_private_name_that_is_imported_is_listed_here() -> None:
    imported = {
        name for folder in ("api", "graph", "store", "threadwell") for name in _private(folder)
    }

    assert imported
    assert imported - {*NAMES, *(name.partition(":")[0] for name in NAMES)} == set()


def test_versions_that_may_lack_them_are_not_taken() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    bounded = {name.partition(">")[0] for name in project["dependencies"] if "<" in name}

    assert bounded >= BOUNDED


def _private(folder: str) -> Iterator[str]:
    """What a package imports that is private elsewhere: ``module:name``, or a module alone."""
    for file in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names if _is_private(alias.name))
            elif isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    # A private module that is imported as a name.
                    is_module = f"{node.module}.{alias.name}" in {
                        n.partition(":")[0] for n in NAMES
                    }
                    between = "." if is_module else ":"
                    if _is_private(f"{node.module}.{alias.name}"):
                        yield f"{node.module}{between}{alias.name}"


def _is_private(name: str) -> bool:
    parts = name.split(".")
    is_theirs = parts[0].startswith(("langchain", "langgraph"))
    return is_theirs and any(part.startswith("_") for part in parts)
