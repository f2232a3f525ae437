"""
What of a checkpoint lies where: in its JSON, in blobs of its own, in its metadata, nowhere.

Values that JSONB cannot hold lie in blobs, and there are no secrets in the metadata.
"""

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    EXCLUDED_METADATA_KEYS,
    WRITES_IDX_MAP,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
)
from langgraph.checkpoint.serde.types import ERROR, _DeltaSnapshot

#: What of `configurable` may be seen in a checkpoint's metadata. The rest may hold secrets.
PUBLIC_CONFIGURABLE: Final = frozenset(
    {"run_id", "graph_id", "assistant_id", "user_id", "langgraph_auth_user_id"}
)


def configurable_of(config: RunnableConfig) -> dict[str, Any]:
    """What says which checkpoint is meant, among other things."""
    return config.get("configurable") or {}


def address(thread_id: str, namespace: str, checkpoint_id: str) -> RunnableConfig:
    """The config that names a checkpoint."""
    return {
        "configurable": {
            "thread_id": thread_id,
            "checkpoint_ns": namespace,
            "checkpoint_id": checkpoint_id,
        }
    }


def kept_writes(writes: Sequence[tuple[str, Any]]) -> Sequence[tuple[str, Any]]:
    """
    What is to be kept of the writes of a task: of one that was cancelled, no output.

    LangGraph takes a task for finished that has any (`langgraph.pregel._task_status`), and what a
    cancelled one has given may be half: its value, and not yet where its conditional edge leads.
    Without it the task is run again.
    """
    if not any(c == ERROR and isinstance(v, asyncio.CancelledError) for c, v in writes):
        return writes
    return [(channel, value) for channel, value in writes if channel in WRITES_IDX_MAP]


def kept_metadata(
    config: RunnableConfig, metadata: CheckpointMetadata, run_id: str | None
) -> dict[str, Any]:
    """
    A checkpoint's metadata: LangGraph's, the run's, and the public part of `configurable`.

    LangChain copies configurable values into a config's metadata; what came that way is
    treated as what it is.

    Args:
        run_id: The run that writes, whatever the config says; None if that says it.
    """
    stored: dict[str, Any] = {k: v for k, v in metadata.items() if k != "writes"}
    configurable = configurable_of(config)
    for key, value in (config.get("metadata") or {}).items():
        if key not in PUBLIC_CONFIGURABLE and configurable.get(key) == value:
            continue
        if isinstance(value, str | int | float) and _is_public(key):
            stored.setdefault(key, value)
    for key in PUBLIC_CONFIGURABLE & configurable.keys():
        if isinstance(configurable[key], str | int | float):
            stored.setdefault(key, configurable[key])
    if run_id is not None:
        stored["run_id"] = run_id
    return stored


def placed(
    checkpoint: Checkpoint, new_versions: ChannelVersions
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Which values lie in the checkpoint's JSON, and which have a blob to be written."""
    inline: dict[str, Any] = {}
    blobs: dict[str, Any] = {}
    for channel, value in checkpoint["channel_values"].items():
        if value is None or isinstance(value, str | int | float):
            if _is_exact_in_jsonb(value):
                inline[channel] = value
            elif channel in checkpoint["channel_versions"]:
                # Also when it did not change: a stock tool may have written it inline.
                blobs[channel] = value
            continue
        if isinstance(value, _DeltaSnapshot):
            inline[channel] = True
        if channel in new_versions:
            blobs[channel] = value
    return inline, blobs


def is_between_snapshots(channel: str, checkpoint: Checkpoint, metadata: Mapping[str, Any]) -> bool:
    """Whether the channel is a DeltaChannel whose value is not in this checkpoint."""
    counters = metadata.get("counters_since_delta_snapshot", ())
    return channel in checkpoint["channel_versions"] and channel in counters


def _is_public(key: str) -> bool:
    return key not in EXCLUDED_METADATA_KEYS and not key.startswith("__")


def _is_exact_in_jsonb(value: str | float | None) -> bool:
    """Whether a scalar comes back from JSONB as it was."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return False
        return "\0" not in value
    if isinstance(value, float):
        # JSONB writes large floats without an exponent: they would come back as integers.
        return math.isfinite(value) and abs(value) < 1e16
    # An integer: LangGraph serialises none beyond 64 bits, so none comes here.
    return True
