"""The Dockerfile and the compose file are what their tools take for good, and what is promised of them."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.acceptance.process import ROOT
from tests.deploy.conftest import tool
from tests.deploy.image import instructions

DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
COMPOSE = ROOT / "compose.yaml"


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    hadolint = [tool("hadolint"), "--failure-threshold", "style", "Dockerfile"]
    done = subprocess.run(hadolint, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout


def test_the_image_runs_as_a_number_that_is_not_root_and_knows_how_it_is() -> None:
    last = DOCKERFILE[DOCKERFILE.rindex("\nFROM ") :]
    found = dict(instructions(last))

    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", found["USER"])
    assert "--start-period" in found["HEALTHCHECK"]
    assert found["STOPSIGNAL"] == "SIGTERM"
    assert json.loads(found["ENTRYPOINT"]) == ["threadwell"]
    assert "-slim" in found["FROM"]


def test_nothing_is_copied_that_is_not_let_into_the_context() -> None:
    ignored = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    let_in = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    copied = {
        source.removeprefix("./")
        for name, rest in instructions(DOCKERFILE)
        if name == "COPY" and "--from=" not in rest
        for source in rest.split()[:-1]
    }

    assert copied == let_in


def interpolated(value: Any, variables: dict[str, str]) -> Any:
    """A compose file's value with its variables put in, as Compose does."""
    if isinstance(value, dict):
        return {key: interpolated(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [interpolated(item, variables) for item in value]
    if not isinstance(value, str):
        return value

    def put(found: re.Match[str]) -> str:
        name, kind, rest = found.groups()
        if kind == ":?" and not variables.get(name):
            raise ValueError(f"{name}: {rest}")
        return variables.get(name) or (rest if kind == ":-" else "")

    return re.sub(r"\$\{(\w+)(?:(:[-?])([^}]*))?\}", put, value)


@pytest.fixture
def services() -> dict[str, Any]:
    document = interpolated(yaml.safe_load(COMPOSE.read_text("utf-8")), {"POSTGRES_PASSWORD": "p"})
    command = [tool("python"), str(Path(__file__).parent / "validate.py"), "compose"]
    text = json.dumps(document)
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == sorted(document["services"])
    return dict(document["services"])


def test_the_compose_file_is_valid_and_starts_things_in_their_order(
    services: dict[str, Any],
) -> None:
    assert services.keys() == {"migrate", "server", "worker", "postgres", "valkey"}
    for name in ("server", "worker"):
        assert services[name]["depends_on"] == {
            "migrate": {"condition": "service_completed_successfully"},
            "postgres": {"condition": "service_healthy"},
            "valkey": {"condition": "service_healthy"},
        }
    for name in ("postgres", "valkey"):
        assert services[name]["healthcheck"]["test"]
    grace = int(services["server"]["environment"]["BG_JOB_SHUTDOWN_GRACE_PERIOD_SECS"])
    assert grace < int(services["server"]["stop_grace_period"].removesuffix("s"))


def test_the_compose_file_shows_only_the_server_and_only_to_this_machine(
    services: dict[str, Any],
) -> None:
    shown = {name: service["ports"] for name, service in services.items() if "ports" in service}

    assert shown == {"server": ["127.0.0.1:2024:2024"]}
    assert services["server"]["environment"]["THREADWELL_AUTH"] == "keys"


def test_the_compose_file_has_no_password() -> None:
    with pytest.raises(ValueError, match="POSTGRES_PASSWORD"):
        interpolated(yaml.safe_load(COMPOSE.read_text("utf-8")), {})


def test_what_the_compose_file_sets_is_a_setting(services: dict[str, Any]) -> None:
    settings = (ROOT / "docs/settings.md").read_text("utf-8")
    of_the_agent = {"OPENAI_API_KEY", "OPENAI_BASE_URL", "MODEL"}

    for name in services["server"]["environment"].keys() - of_the_agent:
        assert f"`{name}`" in settings, name
