"""What a webhook is told of a run that has ended."""

from collections.abc import Mapping
from typing import Any, Final, Literal

from store.models import JsonObject, RunStatus

#: The kind of job that tells it.
KIND: Final = "webhook"

#: ``rollback``: the run was taken back, and is not there any more.
Status = RunStatus | Literal["rollback"]

#: Of a run's configurable: what its own graph may know of its user, and nobody else.
_SECRET: Final = frozenset({"langgraph_auth_user", "langgraph_auth_permissions"})
_FIELDS: Final = (
    "run_id",
    "thread_id",
    "assistant_id",
    "metadata",
    "multitask_strategy",
    "created_at",
)


def delivery(
    run: Mapping[str, Any], *, status: Status, error: JsonObject | None, values: Any
) -> JsonObject:
    """
    The payload of the job: where the run's webhook is, whose the run is, and what it is told.

    When the run began is added by whoever enqueues it; when it ended is when the job was made, in
    the transaction of the end.

    Args:
        run: Its row, with a ``webhook`` in its kwargs.
        values: The output of the graph, as JSON has it; None if it is not known.
    """
    kwargs = run["kwargs"]
    config = kwargs.get("config") or {}
    configurable = {
        key: value
        for key, value in (config.get("configurable") or {}).items()
        if key not in _SECRET
    }
    told: JsonObject = {name: run[name] for name in _FIELDS}
    told |= {
        "status": status,
        "kwargs": {**kwargs, "config": {**config, "configurable": configurable}},
        "values": values,
    }
    if error is not None:
        told["error"] = error
    payload: JsonObject = {"url": kwargs["webhook"], "run": told}
    if asked_by := (config.get("configurable") or {}).get("langgraph_auth_user_id"):
        payload["webhook_owner"] = asked_by
    return payload
