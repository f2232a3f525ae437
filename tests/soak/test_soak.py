"""A minute of random faults under random load: `make soak` does it for as long as one likes."""

import asyncio
import math
import os
import random
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from api.processes.embedded import Servers
from tests.acceptance.gate import open_gate
from tests.acceptance.process import ROOT
from tests.soak.clients import Asked, Ledger
from tests.soak.graph import graph
from tests.soak.invariants import Findings, Row
from tests.soak.turnstile import Visit, open_turnstile

SECONDS = 60
DEADLINE_SECONDS = 420.0


@pytest.mark.parametrize(("seconds", "options"), [(SECONDS, ()), (SECONDS / 2, ("--protected",))])
def test_a_minute_of_random_faults_breaks_nothing(
    seconds: float, options: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    """Another seed each time; the same again is `make soak ARGS="--seed …"`."""
    seed = random.randrange(1 << 20)
    with capfd.disabled():
        print(f"\nsoak, seed {seed}")  # noqa: T201
    soak = [sys.executable, "-m", "tests.soak", "--seconds", str(seconds), "--seed", str(seed)]
    done = subprocess.run(
        [*soak, *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )

    with capfd.disabled():
        print(done.stdout)  # noqa: T201
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


async def test_who_answers_before_a_stopped_run_has_asked_comes_to_the_question() -> None:
    served = graph.copy({"checkpointer": InMemorySaver()})

    def config(run_id: str) -> Any:
        return {"configurable": {"thread_id": "t", "run_id": run_id}}

    async with open_gate() as gate:
        place = f"one t greet {os.getpid()}"
        gate.hold(place)
        work = {"gate": gate.port, "kind": "ask", "messages": [("user", "go")]}
        asking = asyncio.create_task(served.ainvoke(work, config("one")))
        await gate.arrived(place)
        asking.cancel()
        await asyncio.wait({asking})
        told = await served.ainvoke(Command(resume="yes"), config("two"))

    assert told["log"] == ["two:greet", "two:a"]
    assert [asked.value for asked in told["__interrupt__"]] == ["Go on?"]


class Still(random.Random):
    """Keeps everybody as long as it can."""

    def choice(self, seq: Any) -> Any:
        return seq[-1]


async def test_a_step_that_was_on_its_way_when_its_process_was_frozen_is_known_as_such() -> None:
    async with open_turnstile(Still()) as turnstile:

        async def go(run_id: str, step: str, pid: int, *, stays: bool = False) -> Any:
            reader, writer = await asyncio.open_connection("127.0.0.1", turnstile.port)
            writer.write(f"{run_id} thread {step} {pid}\n".encode())
            if stays:
                while turnstile.visits[-1].run_id != run_id:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            else:
                writer.write_eof()
                assert await reader.read() == b""
                writer.close()
            return writer

        await go("between", "greet", 1)
        here = await go("here", "greet", 1, stays=True)
        turnstile.frozen(1)
        await go("between", "a", 2)
        turnstile.thawed(1)
        here.close()
        for run_id in ("between", "here"):
            await go(run_id, "b", 1)
            await go(run_id, "c", 1)

    late = [(visit.run_id, visit.step) for visit in turnstile.visits if visit.is_late]
    assert late == [("between", "b")]


@pytest.mark.parametrize(
    ("kind", "done", "seen", "is_whole"),
    [
        ("go", "greet a b c", "greet a b c", True),
        ("go", "greet a", "greet a b", False),
        ("go", "greet a", "greet a b c", False),
        ("ask", "greet a", "greet a b", True),
        ("ask", "greet a b c", "greet a b c", False),
        ("answer", "b c", "b c", True),
        ("answer", "", "", True),
        ("answer", "greet a", "greet a b", True),
        ("answer", "a", "a b", True),
        ("answer", "greet a", "greet a b c", False),
        ("answer", "greet", "greet a b", False),
        ("answer", "greet a", "greet a", False),
    ],
)
def test_what_a_run_is_to_have_done(
    servers: Servers, kind: str, done: str, seen: str, is_whole: bool
) -> None:
    body = {"command": {}} if kind == "answer" else {"input": {"kind": kind}}
    ledger = Ledger(asked=[Asked("run", "thread", body, 0.0, 0.0)])
    visits = [Visit("run", "thread", step, 1, 0.0, math.inf) for step in seen.split()]
    findings = Findings(ledger, visits, servers.database_url)

    try:
        assert findings.is_whole("run", done.split()) is is_whole
    finally:
        findings.close()


@pytest.mark.parametrize(
    ("status", "faults", "found"),
    [
        ("success", {"SIGKILL": 3, "SIGSTOP": 3, "SIGCONT": 3}, []),
        ("success", {"SIGKILL": 3, "SIGCONT": 30}, ["only 3 faults in 60 seconds"]),
        ("interrupted", {"SIGKILL": 9}, ["only 0 runs succeeded in 60 seconds"]),
        (
            "error",
            {"SIGKILL": 9, "hunt": 2},
            ["only 0 runs succeeded in 60 seconds", "15 runs were given up, and 2 were hunted"],
        ),
    ],
)
def test_a_soak_in_which_little_happened_proves_nothing(
    servers: Servers, status: str, faults: dict[str, int], found: list[str]
) -> None:
    findings = Findings(Ledger(), [], servers.database_url)
    error = {"error": "WorkerLost"} if status == "error" else None
    findings.rows = {str(n): Row(str(n), "thread", status, error) for n in range(15)}

    try:
        assert list(findings.of_amount(Counter(faults), 60)) == found
    finally:
        findings.close()
