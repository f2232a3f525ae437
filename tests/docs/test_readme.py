"""The commands of README.md are run, as they stand there; those of the other pages are understood."""

import argparse
import asyncio
import re
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from api.__main__ import _parser
from tests.acceptance.process import ROOT, ServerProcess, environment, started_by
from tests.openai_server import OpenAIServer, openai_server

README = (ROOT / "README.md").read_text("utf-8")
#: Commands by the two words of their fence, as "sh talk".
BLOCKS: dict[str, str] = dict(
    re.findall(r"^```(\w+ \w+)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
)
#: Where README says that things are.
HERE, MODEL = "127.0.0.1:2024", "http://127.0.0.1:11434/v1"
SECONDS = 60.0
#: `make` with this environment, whatever has changed since it was set up; as if not within `make test`.
MAKE = shlex.join(
    ["make", "--no-print-directory", "-o", f"{sys.prefix}/.installed", f"VENV={sys.prefix}"]
)


def in_bash(script: str) -> list[str]:
    # An answer of 4xx is a failure, not a text.
    curl = 'curl() { command curl --show-error --fail-with-body "$@"; }'
    return ["bash", "-euo", "pipefail", "-c", f"{curl}\n{script}"]


async def done(command: list[str], variables: dict[str, str], said: str = "") -> str:
    """What a command prints that is done in the checkout, told something."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env=environment(variables),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(SECONDS):
        output, _ = await process.communicate(said.encode())
    assert process.returncode == 0, output.decode()
    return output.decode()


@pytest.fixture
async def model() -> AsyncIterator[OpenAIServer]:
    async with openai_server() as model:
        yield model


@pytest.fixture
async def server(model: OpenAIServer, tmp_path: Path) -> AsyncIterator[ServerProcess]:
    """The server that README's command starts which names a model, in a directory of its own."""
    command = BLOCKS["sh model"].strip()
    assert MODEL in command
    assert command.endswith(" make run")
    run = f'{MAKE} run ARGS="--port 0 --data-dir {tmp_path}/data"'
    script = command.replace(MODEL, model.url).replace("make run", run)
    started = started_by(in_bash(script))
    yield await asyncio.to_thread(started.__enter__)
    await asyncio.to_thread(started.__exit__, None, None, None)


async def test_what_readme_says_is_done_and_works(
    server: ServerProcess, model: OpenAIServer, tmp_path: Path
) -> None:
    def here(block: str) -> str:
        assert HERE in BLOCKS[block]
        return BLOCKS[block].replace(HERE, server.url.removeprefix("http://"))

    # The official SDK.
    assert "hello" in await done([sys.executable, "-c", here("python talk")], {})
    assert {request["model"] for request in model.requests} == {"qwen3:8b"}

    # Conversations: made, asked, followed, read.
    said = await done(in_bash(here("sh talk") + "\necho; echo $ID"), {})
    id_ = said.splitlines()[-1]
    assert '"response":' in said
    assert "event: " in said
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        page = (await http.get(f"/api/sessions/{id_}/messages")).json()["data"]
    assert [row["role"] for row in page] == ["user", "assistant"] * 2

    # And with SQL.
    psql = shlex.split(f'{MAKE} psql ARGS="-qAt -v ON_ERROR_STOP=1"')
    queries = BLOCKS["sql talk"].replace("…", id_)
    rows = await done(psql, {"THREADWELL_DATA_DIR": f"{tmp_path}/data"}, queries)
    assert f"{id_}|First" in rows
    assert [line.partition("|")[0] for line in rows.splitlines()[-4:]] == ["user", "assistant"] * 2


def test_readme_names_targets_that_there_are() -> None:
    named = set(re.findall(r"`?\bmake ([a-z]+)`?", "\n".join(BLOCKS.values()) + README))
    there = re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert {"run", "test", "psql"} <= named
    assert named <= set(there)
    command = shlex.split(f'{MAKE} --dry-run run ARGS="--port 8000"')
    planned = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert planned.stdout.strip() == f"{sys.prefix}/bin/threadwell serve --port 8000"


def commands(page: Path) -> list[list[str]]:
    """The commands `threadwell` in the shell's blocks of a page."""
    found = []
    for block in re.findall(
        r"^```sh[^\n]*\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE
    ):
        for line in block.splitlines():
            match = re.match(
                r"(?:.*\bexec server |env .*? |docker run .*? )?threadwell (\w.*)", line
            )
            if match:
                found.append(shlex.split(match[1], comments=True))
    return found


def test_every_command_in_the_pages_is_understood() -> None:
    pages = [ROOT / "README.md", *ROOT.glob("docs/*.md")]
    found = [(page.name, command) for page in pages for command in commands(page)]
    wrong = []
    for name, command in found:
        try:
            _parser().parse_args([word for word in command if word not in ("&", "&&", "|")])
        except (SystemExit, argparse.ArgumentError):
            wrong.append((name, command))
    assert ("README.md", "serve") in {(name, command[0]) for name, command in found}
    assert wrong == []
