"""What `http.app` of a langgraph.json may name: routes, middleware, handlers and a lifespan."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from langgraph_sdk import get_client
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.routing import Route

#: What happened to it, for a test in the same process.
history: list[str] = []


class Odd(Exception):
    """Has a handler."""


class ThreadCreate(BaseModel):
    """Has the name of a model of the server's."""

    colour: str


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
    history.append("started")
    print("site started", flush=True)  # noqa: T201 - a test waits for it
    app.state.opened = "opened"
    # By the name of something of the server's.
    yield {"shared": "shared", "caller": "theirs"}
    history.append("stopped")
    print("site stopped", flush=True)  # noqa: T201 - a test waits for it


app = FastAPI(title="Site", lifespan=lifespan)


@app.middleware("http")
async def sign(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    if request.headers.get("x-stop"):
        return Response("stopped by the site", 403)
    response = await call_next(request)
    response.headers["x-signed"] = "by the site"
    return response


@app.exception_handler(Odd)
async def on_odd(request: Request, error: Exception) -> Response:
    return JSONResponse({"theirs": "odd"}, 418)


@app.exception_handler(Exception)
async def on_any(request: Request, error: Exception) -> Response:
    return JSONResponse({"theirs": type(error).__name__}, 500)


@app.exception_handler(HTTPException)
async def on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"theirs": error.detail}, error.status_code)


@app.get("/hello")
async def hello(request: Request) -> dict[str, str]:
    return {"opened": request.app.state.opened, "shared": request.state.shared}


@app.get("/ok")
@app.get("/info")
@app.get("/threads")
async def theirs() -> dict[str, bool]:
    return {"theirs": True}


@app.get("/odd")
async def odd() -> None:
    raise Odd


@app.get("/fault")
async def fault() -> None:
    raise LookupError("a secret")


@app.get("/refused")
async def refused() -> None:
    raise HTTPException(409, "no")


@app.post("/bodies")
async def bodies(request: Request) -> int:
    return len(await request.body())


@app.post("/hooks")
async def hooks(request: Request) -> None:
    told = await request.json()
    history.append(f"{told['run_id']} {request.url.query} {request.headers.get('x-hook')}")


@app.post("/paint")
async def paint(body: ThreadCreate) -> str:
    return body.colour


@app.get("/ask")
async def ask() -> Any:
    """Run a graph through the server that this is part of."""
    async with get_client() as client:
        return await client.runs.wait(None, "echo", input={"text": "from a route"})


plain = Starlette(routes=[Route("/plain", lambda request: JSONResponse("plain"))])
late = FastAPI()
late.router.on_startup.append(lambda: None)


@asynccontextmanager
async def fail(app: FastAPI) -> AsyncIterator[None]:
    raise OSError("no disk")
    yield


failing = FastAPI(lifespan=fail)
