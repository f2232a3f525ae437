"""The rows of LangGraph's tables, sealed before they are written and opened once they are read."""

from collections.abc import Mapping
from typing import Any

import orjson
from langgraph.checkpoint.serde.types import TASKS
from psycopg.rows import DictRow

from store import sealing
from store.cipher import Cipher, at
from store.commits import BlobRow, CheckpointRow, WriteRow
from store.projection import dump

#: What the places of blobs, of writes and of checkpoints begin with.
_BLOB, _WRITE = b"checkpoint_blobs.blob", b"checkpoint_writes.blob"
_CHECKPOINT = b"checkpoints.checkpoint"


def sealed_checkpoint(cipher: Cipher, row: CheckpointRow) -> CheckpointRow:
    """A row of `checkpoints` as it is kept."""
    thread, _, namespace, checkpoint_id, _, body, about = row
    place = _joined(_CHECKPOINT, thread, namespace, checkpoint_id)
    checkpoint = sealing.seal_checkpoint(cipher, orjson.loads(body), place)
    return *row[:5], dump(checkpoint), dump(cipher.seal_values(orjson.loads(about)))


def sealed_blob(cipher: Cipher, row: BlobRow) -> BlobRow:
    """A row of `checkpoint_blobs` as it is kept."""
    thread, epoch, namespace, channel, version, type_, blob = row
    place = _joined(_BLOB, thread, namespace, channel, version, type_)
    sealed = cipher.seal(blob or b"", place)
    return thread, epoch, namespace, channel, version, type_, sealed


def sealed_write(cipher: Cipher, row: WriteRow) -> WriteRow:
    """A row of `checkpoint_writes` as it is kept."""
    thread, _, namespace, checkpoint_id, task, _, idx, channel, type_, blob = row
    place = _joined(_WRITE, thread, namespace, checkpoint_id, task, b"%d" % idx, channel, type_)
    return *row[:-1], cipher.seal(blob, place)


def opened(cipher: Cipher, row: DictRow) -> DictRow:
    """A row of the query `select` without its seals; raises as `Cipher.open`."""
    checkpoint = row["checkpoint"]
    key = (row["thread_id"].encode(), row["checkpoint_ns"].encode())
    checkpoint_id = row["checkpoint_id"].encode()
    versions = checkpoint["channel_versions"]
    blobs = [
        [
            name,
            kind,
            cipher.open(
                blob, _joined(_BLOB, *key, name, str(versions[name.decode()]).encode(), kind)
            ),
        ]
        for name, kind, blob in row["channel_values"] or ()
        if blob is not None
    ]
    writes = [
        [
            task,
            channel,
            kind,
            cipher.open(blob, _joined(_WRITE, *key, checkpoint_id, task, idx, channel, kind)),
            path,
            idx,
        ]
        for task, channel, kind, blob, path, idx in row["pending_writes"] or ()
    ]
    place = _joined(_CHECKPOINT, *key, checkpoint_id)
    return {
        **row,
        "checkpoint": sealing.open_checkpoint(cipher, checkpoint, place),
        "metadata": cipher.open_values(row["metadata"]),
        "channel_values": blobs,
        "pending_writes": writes,
    }


def opened_sends(cipher: Cipher, row: DictRow) -> list[tuple[bytes, bytes]]:
    """The types and the values of a row of the query `pending_sends`, in order."""
    key = (row["thread_id"].encode(), row["checkpoint_id"].encode())
    places = (
        _joined(_WRITE, key[0], namespace, key[1], task, idx, TASKS.encode(), kind)
        for kind, _, namespace, task, idx in row["sends"]
    )
    sends = zip(row["sends"], places, strict=True)
    return [(kind, cipher.open(blob, place)) for (kind, blob, *_), place in sends]


def opened_part(
    cipher: Cipher, thread_id: str, namespace: str, row: Mapping[str, Any]
) -> bytes | None:
    """The value of a write or of a blob, as LangGraph reads them for DeltaChannels."""
    if row["blob"] is None:
        return None
    of = (thread_id, namespace)
    if row["_kind"] == "w":
        key = (row["checkpoint_id"], row["task_id"], str(row["idx"]), row["channel"])
        place = at(_WRITE.decode(), *of, *key, row["type"])
    else:
        place = at(_BLOB.decode(), *of, row["channel"], row["version"], row["type"])
    return cipher.open(row["blob"], place)


def _joined(*parts: bytes) -> bytes:
    """A place, of parts that are encoded already: see `cipher.at`."""
    return b"\0".join(parts)
