"""The Dockerfile and the compose file are what their tools take for good, and what is promised of them."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from dotenv import dotenv_values

from tests.acceptance.process import ROOT
from tests.deploy.conftest import tool
from tests.deploy.image import instructions

DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
DEPLOYMENT = (ROOT / "docs/deployment.md").read_text("utf-8")
OURS = ("migrate", "server", "worker")
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

    for name in services["server"]["environment"]:
        assert f"`{name}`" in settings, name


def test_whatever_a_model_wants_to_know_comes_from_the_env_file(services: dict[str, Any]) -> None:
    models = (ROOT / "docs/models.md").read_text("utf-8")
    variables = set(re.findall(r"^\| `([A-Z_]+)` \|", models, re.MULTILINE))

    assert {"OPENAI_API_KEY", "MODEL_TOOLS"} <= variables
    for name in OURS:
        assert services[name]["env_file"] == [{"path": ".env", "required": False}]
        assert services[name]["environment"].keys() & variables == set()
    assert ".env" in (ROOT / ".gitignore").read_text("utf-8").splitlines()
    assert not any("env" in line for line in (ROOT / ".dockerignore").read_text().splitlines())


def test_the_page_and_the_file_have_the_same_commands_and_each_finds_the_password(
    tmp_path: Path,
) -> None:
    [block] = re.findall(r"^```sh\n(\(umask .*?)```$", DEPLOYMENT, re.DOTALL | re.MULTILINE)
    text = COMPOSE.read_text("utf-8")
    commands = [line.partition("  #")[0].strip() for line in block.splitlines()]
    assert all(f"\n#   {command}\n" in text for command in commands[:3])

    making, *others = commands
    assert all(command.startswith("docker compose ") for command in others)
    subprocess.run(["bash", "-euc", making], cwd=tmp_path, check=True)
    variables = dotenv_values(tmp_path / ".env")
    # Every command interpolates the whole file, by `.env` and nothing else.
    document = interpolated(yaml.safe_load(text), {k: v or "" for k, v in variables.items()})
    [url] = {document["services"][name]["environment"]["DATABASE_URL"] for name in OURS}
    password = document["services"]["postgres"]["environment"]["POSTGRES_PASSWORD"]
    assert urlsplit(url).password == password == variables["POSTGRES_PASSWORD"]
    assert len(password) == 32
    assert (tmp_path / ".env").stat().st_mode & 0o077 == 0


def test_the_image_has_the_extras_that_its_commands_need_and_the_constraints() -> None:
    found = [rest for name, rest in instructions(DOCKERFILE) if name == "RUN"]
    extras = next(rest for name, rest in instructions(DOCKERFILE) if rest.startswith("EXTRAS="))
    needed = {*re.findall(r"threadwell\[(\w+)\]", settings_and_commands())}

    assert needed == {*extras.removeprefix("EXTRAS=").split(",")}
    assert any(
        '".[${EXTRAS}]"' in rest and "cp constraints.txt /opt/threadwell/" in rest for rest in found
    )
    assert "--constraint /opt/threadwell/constraints.txt --requirement" in DEPLOYMENT


def settings_and_commands() -> str:
    """What says at a start which extra is missing."""
    sources = [*ROOT.glob("api/**/*.py"), *ROOT.glob("graph/**/*.py"), *ROOT.glob("store/**/*.py")]
    return "\n".join(path.read_text("utf-8") for path in sources)
