"""schemathesis, by every check it has, over the whole of what the API says of itself."""

import json
import os
import random
from pathlib import Path

import httpx
import pytest

from api.app import create_app
from api.bootstrap import Services
from api.settings import Settings
from tests.api.conftest import GRAPHS
from tests.security.auth import AWAY, USERS
from tests.security.generated import Found, Impatient, generate, seed
from tests.serving import serving

#: Of `make fuzz`.
CASES = 20_000
#: And of the links that are declared: two runs followed 108 and 126 of 142.
LINKS = 100
#: Quick ones: what a request waits for is the server. One never ends, one never begins.
ANSWERING = [name for name in GRAPHS if name != "endless"]
SCHEMES = {"users": {"type": "http", "scheme": "bearer"}}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Users, and the routes of other projects, which are routes too."""
    openapi = {"securitySchemes": SCHEMES, "security": [{"users": []}]}
    about = {
        "graphs": {name: f"tests.graph.sample_graphs:{name}" for name in ANSWERING},
        # What is told of a webhook that was made ends where nobody listens.
        "webhooks": {"url": {"require_https": False, "disable_loopback": False}},
        "auth": {"path": "tests.security.auth:auth", "openapi": openapi},
    }
    config = tmp_path / "langgraph.json"
    config.write_text(json.dumps(about))
    return Settings(config=config, request_body_max_bytes=64 * 1024, compat=("fufan", "chatchat"))


async def _generate(
    services: Services, directory: Path, *options: str, each: int, scenarios: int, number: int
) -> Found:
    ada, joe = ({"authorization": f"Bearer {user}"} for user in (USERS[0], AWAY))
    async with (
        serving(Impatient(create_app(services))) as url,
        httpx.AsyncClient(base_url=url, timeout=120, headers=ada) as http,
        httpx.AsyncClient(base_url=url, timeout=120, headers=joe) as away,
    ):
        # It takes FastAPI seconds to make, and schemathesis waits ten.
        await http.get("/openapi.json")
        ids = await seed(http, away)
        return await generate(
            url, directory, ids, *options, each=each, scenarios=scenarios, seed=number
        )


async def test_no_request_finds_a_fault_or_an_answer_that_is_not_documented(
    services: Services, tmp_path: Path
) -> None:
    options = ("--phases", "fuzzing,stateful", "--max-failures", "20")
    # The same ones each time: others are what `make fuzz` is for.
    number = int(os.environ.get("SEED", "1"))
    found = await _generate(services, tmp_path, *options, each=1, scenarios=6, number=number)

    assert found.sound, found.report
    assert found.cases > 300
    # What is made is used, and deleted.
    assert found.links >= 10, found.report


@pytest.mark.fuzz
async def test_no_request_of_very_many_finds_a_fault(services: Services, tmp_path: Path) -> None:
    number = int(os.environ.get("SEED") or random.SystemRandom().randrange(2**32))
    options = ("--workers", "2")
    found = await _generate(services, tmp_path, *options, each=100, scenarios=200, number=number)

    print(found.report)  # noqa: T201
    assert found.sound
    assert found.cases >= CASES
    assert found.links >= LINKS
