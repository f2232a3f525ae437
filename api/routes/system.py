"""Is it up, and what is it."""

from importlib.metadata import version
from typing import Literal

from fastapi import APIRouter, Query, Response
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as PROMETHEUS

from api import __version__
from api.deps import ServicesDep
from api.metrics import exposition, measure
from api.responses import json_response

router = APIRouter(tags=["system"])

#: The version of the LangGraph Server whose contract this server keeps; Studio and the SDKs
#: switch features by it.
CONTRACT_VERSION = "0.16.7"


@router.get("/")
@router.get("/ok")
@router.head("/ok", include_in_schema=False)
async def ok(services: ServicesDep, check_db: bool = Query(False)) -> Response:
    """Say that the server is up; with `check_db`, that its database answers too."""
    if check_db and not services.graphs.http.disable_meta:
        await services.db.ping()
    return json_response({"ok": True, "services": {}})


@router.get("/metrics")
async def metrics(
    services: ServicesDep, format: Literal["prometheus", "json"] = Query("prometheus")
) -> Response:
    """Tell how long the queue is, and what this process is doing."""
    measured = await measure(services)
    if format == "json":
        return json_response(measured)
    return Response(exposition(measured), media_type=PROMETHEUS)


@router.get("/info")
async def info() -> Response:
    """Say which contract, which LangGraph and which Threadwell this is."""
    return json_response(
        {
            "version": CONTRACT_VERSION,
            "langgraph_py_version": version("langgraph"),
            "threadwell": __version__,
            "flags": {
                "assistants": True,
                "crons": True,
                "strict_resume": True,
                "stream_namespaces": True,
                "langsmith": False,
                "langsmith_tracing_replicas": False,
                "langsmith_tracing_session_on_runs": False,
            },
            "host": {
                "kind": "self-hosted",
                "project_id": None,
                "host_revision_id": None,
                "revision_id": None,
                "tenant_id": None,
            },
        }
    )
