"""What the pages of docs/ say that a server does: read, done, compared. `test_sessions_docs` says how."""

import asyncio
import json
import re
import sys
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

#: How long an answer, or a script, may take; and how long what is to come ``soon``.
SECONDS = 60.0
#: What a page names a server by.
SERVER = "http://127.0.0.1:2024"
REST = "…"

_FENCE = re.compile(
    r"^(?P<soon><!-- soon -->\n)?^```(?P<kind>http|python run)\n(?P<text>.*?)^```$", re.M | re.S
)
_CONFIG = re.compile(r"<!-- server: (\{.*?\}) -->", re.S)
_STATUS = re.compile(r"HTTP/1\.1 (\d{3})")
_PLACEHOLDER = re.compile(r"<([a-z_][a-z0-9_ ]*)>")
#: Of these any value will do that is of the kind; every other name stands for one value.
_KINDS = {
    "time": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)",
    "number": r"-?\d+(\.\d+)?",
}


@dataclass(frozen=True, slots=True)
class Step:
    """A request and the answer that the page says it gets; or a script that must run through."""

    line: int
    kind: str
    text: str
    answer: str | None = None
    soon: bool = False


@dataclass(slots=True)
class Page:
    """A page, as `steps` in their order, and the server that it wants."""

    path: Path
    steps: list[Step]
    config: dict[str, Any] = field(default_factory=dict)


class Mismatch(AssertionError):
    """The page and the server say different things."""


def read(path: Path) -> Page:
    """
    Read a page.

    Raises:
        ValueError: A request has no answer, or an answer no request.
    """
    text = path.read_text()
    steps: list[Step] = []
    for found in _FENCE.finditer(text):
        line = text.count("\n", 0, found.start("kind")) + 1
        kind, body = found["kind"], found["text"]
        if kind == "http" and _STATUS.match(body):
            if not steps or steps[-1].kind != "http" or steps[-1].answer is not None:
                raise ValueError(f"{path.name}:{line}: an answer without a request")
            asked = steps.pop()
            steps.append(Step(asked.line, "http", asked.text, body, asked.soon))
            continue
        _require_answer(path, steps)
        steps.append(Step(line, kind, body, soon=bool(found["soon"])))
    _require_answer(path, steps)
    config = _CONFIG.search(text)
    return Page(path, steps, json.loads(config[1]) if config else {})


def _require_answer(path: Path, steps: Sequence[Step]) -> None:
    if steps and steps[-1].kind == "http" and steps[-1].answer is None:
        raise ValueError(f"{path.name}:{steps[-1].line}: a request without an answer")


async def follow(page: Page, url: str, *, python: str = sys.executable) -> None:
    """
    Do what a page says, in its order.

    Raises:
        Mismatch: Something came otherwise.
    """
    known: dict[str, str] = {}
    async with httpx.AsyncClient(base_url=url, timeout=SECONDS) as http:
        for step in page.steps:
            try:
                async with asyncio.timeout(SECONDS):
                    if step.kind == "http":
                        await _ask(http, step, known)
                    else:
                        await _run(step, url, known, python)
            except TimeoutError as exc:
                raise Mismatch(f"{page.path.name}:{step.line}: not within {SECONDS:g} s") from exc
            except Mismatch as exc:
                raise Mismatch(f"{page.path.name}:{step.line}: {exc}") from exc


async def _run(step: Step, url: str, known: dict[str, str], python: str) -> None:
    script = filled(step.text, known).replace(SERVER, url)
    process = await asyncio.create_subprocess_exec(
        python, "-c", script, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise Mismatch(f"the script failed:\n{output.decode()}")


async def _ask(http: httpx.AsyncClient, step: Step, known: dict[str, str]) -> None:
    assert step.answer is not None
    deadline = asyncio.get_running_loop().time() + SECONDS / 2
    while True:
        learnt = dict(known)
        try:
            await _ask_once(http, filled(step.text, known), step.answer, learnt)
        except Mismatch:
            if not step.soon or asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(0.1)
        else:
            known.update(learnt)
            return


async def _ask_once(
    http: httpx.AsyncClient, request: str, answer: str, known: dict[str, str]
) -> None:
    start, headers, body = _parts(request)
    method, path = start.split(" ", 1)
    if "multipart/" in headers.get("content-type", ""):
        body = body.replace("\n", "\r\n")
    status, wanted_headers, wanted = _parts(answer)
    expected = int(status.split()[1])
    async with http.stream(
        method, path.removeprefix(SERVER), headers=headers, content=body.encode()
    ) as response:
        media_type = response.headers.get("content-type", "")
        if response.status_code != expected:
            text = (await response.aread()).decode(errors="replace")
            raise Mismatch(f"{response.status_code} instead of {expected}: {text[:2000]}")
        for name, value in wanted_headers.items():
            matches(value, response.headers.get(name), known, f"header {name}")
        if media_type.startswith("text/event-stream"):
            await _match_events(wanted, response, known)
            return
        text = (await response.aread()).decode()
        if "json" in media_type and "lines" not in media_type and "ndjson" not in media_type:
            matches(json.loads(wanted), json.loads(text), known, "$")
        else:
            match_lines(wanted.strip("\n").splitlines(), text.strip("\r\n").splitlines(), known)


def _parts(text: str) -> tuple[str, dict[str, str], str]:
    head, _, body = text.partition("\n\n")
    start, *lines = head.strip("\n").split("\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return start, headers, body.strip("\n") if "multipart" not in head else body


def filled(text: str, known: dict[str, str]) -> str:
    """The text with what is known in place of its names."""
    return _PLACEHOLDER.sub(lambda found: known.get(found[1], found[0]), text)


def matches(expected: Any, found: Any, known: dict[str, str], place: str) -> None:
    """
    Compare a value with what a page says of it; names that are new are learnt.

    Raises:
        Mismatch: It is another one.
    """
    if expected == REST:
        return
    if isinstance(expected, dict) and isinstance(found, dict):
        _match_objects(expected, found, known, place)
    elif isinstance(expected, list) and isinstance(found, list):
        _match_lists(expected, found, known, place)
    elif isinstance(expected, str) and _is_pattern(expected):
        _match_text(expected, found, known, place)
    elif expected != found or isinstance(expected, bool) != isinstance(found, bool):
        raise Mismatch(f"{place} is {found!r}, not {expected!r}")


def _match_objects(
    expected: dict[str, Any], found: dict[str, Any], known: dict[str, str], place: str
) -> None:
    wanted = expected.keys() - {REST}
    if missing := wanted - found.keys():
        raise Mismatch(f"{place} has no {sorted(missing)}: {found!r}")
    if REST not in expected and (more := found.keys() - wanted):
        raise Mismatch(f"{place} has {sorted(more)} too")
    for key in found:  # in the order of the answer: names are learnt from left to right
        if key in wanted:
            matches(expected[key], found[key], known, f"{place}.{key}")


def _match_lists(expected: list[Any], found: list[Any], known: dict[str, str], place: str) -> None:
    open_ended = bool(expected) and expected[-1] == REST
    wanted = expected[:-1] if open_ended else expected
    if len(found) < len(wanted) or (len(found) > len(wanted) and not open_ended):
        raise Mismatch(f"{place} has {len(found)} elements, not {len(wanted)}: {found!r}")
    for n, one in enumerate(wanted):
        matches(one, found[n], known, f"{place}[{n}]")


def _is_pattern(text: str) -> bool:
    return REST in text or _PLACEHOLDER.search(text) is not None


def _match_text(expected: str, found: Any, known: dict[str, str], place: str) -> None:
    if not isinstance(found, str) and not (
        isinstance(found, int | float) and expected.startswith("<") and expected.endswith(">")
    ):
        raise Mismatch(f"{place} is {found!r}, not as {expected!r}")
    names: list[str] = []
    pattern = "".join(_pattern_parts(expected, known, names))
    agreeing = re.fullmatch(pattern, str(found), re.S)
    if agreeing is None:
        raise Mismatch(f"{place} is {found!r}, not as {filled(expected, known)!r}")
    for n, name in enumerate(names):
        known[name] = agreeing[f"name{n}"]


def _pattern_parts(expected: str, known: dict[str, str], names: list[str]) -> Iterator[str]:
    for part in re.split(rf"(<[a-z_][a-z0-9_ ]*>|{REST})", expected):
        placeholder = _PLACEHOLDER.fullmatch(part)
        if part == REST:
            yield ".*"
        elif placeholder is None:
            yield re.escape(part)
        elif (name := placeholder[1]) in _KINDS:
            yield _KINDS[name]
        elif name in known:
            yield re.escape(known[name])
        elif name in names:
            yield f"(?P=name{names.index(name)})"
        else:
            yield f"(?P<name{len(names)}>.+?)"
            names.append(name)


def match_lines(expected: list[str], found: list[str], known: dict[str, str]) -> None:
    """
    Compare a text by its lines; a line of ``…`` stands for any number of them.

    Raises:
        Mismatch: It is another one.
    """
    at = 0
    for n, line in enumerate(expected):
        if line.strip() == REST:
            following = next((rest for rest in expected[n + 1 :] if rest.strip() != REST), None)
            if following is None:
                return
            while at < len(found) and not _agrees(following, found[at], known):
                at += 1
            continue
        if at >= len(found):
            raise Mismatch(f"the text ends before {line!r}")
        matches(line, found[at], known, f"line {at + 1}")
        at += 1
    if at < len(found):
        raise Mismatch(f"the text goes on with {found[at]!r}")


def _agrees(expected: Any, found: Any, known: dict[str, str]) -> bool:
    try:
        matches(expected, found, dict(known), "")
    except Mismatch:
        return False
    return True


async def _match_events(wanted: str, response: httpx.Response, known: dict[str, str]) -> None:
    """Compare a stream with the frames of a page; one that ends in ``…`` is left there."""
    expected = [_frame(text) for text in re.split(r"\n\s*\n", wanted.strip()) if text.strip()]
    skipping = False
    async with aclosing(_frames(response)) as frames:
        for frame in expected:
            if frame is None:
                skipping = True
                continue
            async for found in frames:
                if skipping and not _agrees(frame, found, known):
                    continue
                matches(frame, found, known, f"event {found.get('event')}")
                break
            else:
                raise Mismatch(f"the stream ends before {frame}")
            skipping = False
        if not skipping and (more := await anext(frames, None)):
            raise Mismatch(f"the stream goes on with {more}")


def _data(text: str) -> Any:
    """What a frame has: JSON, or words such as the ``[DONE]`` that ends a stream of OpenAI's."""
    return json.loads(text) if text[:1] in ("{", "[", '"') and text != "[DONE]" else text


def _frame(text: str) -> dict[str, Any] | None:
    if text.strip() == REST:
        return None
    fields: dict[str, Any] = {}
    for line in text.strip().split("\n"):
        name, _, value = line.partition(":")
        fields[name.strip()] = value.strip()
    if fields.get("data", REST) != REST:
        fields["data"] = _data(fields["data"])
    # Ids need not be said.
    return {**fields, REST: REST}


async def _frames(response: httpx.Response) -> AsyncGenerator[dict[str, Any], None]:
    fields: dict[str, Any] = {}
    async for line in response.aiter_lines():
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        elif fields:
            if "data" in fields:
                fields["data"] = _data(fields["data"])
            yield fields
            fields = {}
