"""Is it up, and what is it."""

from dataclasses import asdict
from importlib.metadata import version
from typing import Literal

from fastapi import APIRouter, Query, Response
from fastapi.requests import Request
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as PROMETHEUS

from api import __version__, metrics_gate
from api.deps import ServicesDep
from api.http.responses import json_response
from api.metrics import exposition, measure
from store.errors import UnavailableError

router = APIRouter(tags=["system"])

#: The version of the LangGraph Server whose contract this server keeps; Studio and the SDKs
#: switch features by it.
CONTRACT_VERSION = "0.16.7"


@router.get("/")
@router.get("/ok")
@router.head("/ok", include_in_schema=False)
async def ok(
    services: ServicesDep, check_db: bool = Query(False), deep: bool = Query(False)
) -> Response:
    """
    Say that the server is up; with `check_db`, that its database answers too.

    With `deep`, how everything is that it needs: 503 if it cannot work without what is away.
    """
    if services.graphs.http.disable_meta:
        return json_response({"ok": True, "services": {}})
    if deep:
        checks = await services.health.checks()
        if checks.postgres != "ok":
            raise UnavailableError("The database is not available")
        return json_response({"ok": True, "services": asdict(checks)})
    if check_db:
        await services.db.ping()
    return json_response({"ok": True, "services": {}})


@router.get("/ready")
@router.head("/ready", include_in_schema=False)
async def ready(services: ServicesDep) -> Response:
    """
    Say whether requests should be sent here.

    Not, which is 503, while the database is away or lacks migrations, and once this process goes
    or has lost its leases. `checks` says what it is; Redis and a graph that blocks are told only.
    """
    checks = await services.health.checks()
    found = {"ready": checks.is_ready, "checks": asdict(checks)}
    if checks.is_ready:
        return json_response(found)
    told = {"detail": "This process takes no requests", "code": "unavailable"}
    return json_response(found | told, status_code=503, headers={"Retry-After": "1"})


@router.get("/metrics")
async def metrics(
    request: Request,
    services: ServicesDep,
    format: Literal["prometheus", "json"] = Query("prometheus"),
) -> Response:
    """
    Tell how long the queue is, and what this process is doing.

    Where callers are known it needs the permission `metrics:read`, or the server's `METRICS_TOKEN`.
    """
    metrics_gate.require(getattr(request.state, "caller", None))
    if format == "json":
        return json_response(await measure(services))
    return Response(await exposition(services), media_type=PROMETHEUS)


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
