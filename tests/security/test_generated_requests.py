"""schemathesis, by every check it has, over the whole of what the API says of itself."""

import json
import random
from pathlib import Path

import httpx
import pytest

from api.app import create_app
from api.bootstrap import Services
from api.settings import Settings
from tests.api.conftest import GRAPHS
from tests.security.auth import USERS
from tests.security.generated import Found, Impatient, generate, seed
from tests.serving import serving

#: Of `make fuzz`.
CASES = 20_000
#: Quick ones: what a request waits for is the server. One never ends, one never begins.
ANSWERING = [name for name in GRAPHS if name != "endless"]
SCHEMES = {"users": {"type": "http", "scheme": "bearer"}}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Users, and the routes of other projects, which are routes too."""
    openapi = {"securitySchemes": SCHEMES, "security": [{"users": []}]}
    about = {
        "graphs": {name: f"tests.graph.sample_graphs:{name}" for name in ANSWERING},
        "auth": {"path": "tests.security.auth:auth", "openapi": openapi},
    }
    config = tmp_path / "langgraph.json"
    config.write_text(json.dumps(about))
    return Settings(config=config, request_body_max_bytes=64 * 1024, compat=("fufan", "chatchat"))


async def _generate(services: Services, directory: Path, *options: str) -> Found:
    number = random.SystemRandom().randrange(2**32)
    ada = {"authorization": f"Bearer {USERS[0]}"}
    async with (
        serving(Impatient(create_app(services))) as url,
        httpx.AsyncClient(base_url=url, timeout=120, headers=ada) as http,
    ):
        # It takes FastAPI seconds to make, and schemathesis waits ten.
        await http.get("/openapi.json")
        return await generate(url, directory, await seed(http), *options, seed=number)


async def test_no_request_finds_a_fault_or_an_answer_that_is_not_documented(
    services: Services, tmp_path: Path
) -> None:
    found = await _generate(
        services, tmp_path, "--phases", "fuzzing", "-n", "2", "--max-failures", "20"
    )

    assert found.sound, found.report
    assert found.cases > 300


async def test_no_request_that_follows_from_an_answer_finds_a_fault(
    services: Services, tmp_path: Path
) -> None:
    # Of two scenarios none may follow a link: so many that one does.
    found = await _generate(
        services, tmp_path, "--phases", "stateful", "-n", "30", "--max-failures", "20"
    )

    assert found.sound, found.report
    assert found.links > 0


@pytest.mark.fuzz
async def test_no_request_of_very_many_finds_a_fault(services: Services, tmp_path: Path) -> None:
    found = await _generate(services, tmp_path, "-n", "100", "--workers", "2")

    print(found.report)  # noqa: T201
    assert found.sound
    assert found.cases >= CASES
