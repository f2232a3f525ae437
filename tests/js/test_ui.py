"""Generative UI as the official SDK shows it, of components that the official bundler bundled."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.staticfiles import StaticFiles

from api.processes.embedded import Servers
from tests.acceptance.conftest import empty_database
from tests.acceptance.process import ROOT, ServerProcess, command, environment, serving
from tests.api.test_socket_in_a_browser import CHROMIUM, page
from tests.js.test_sdk import HERE, SECONDS, modules
from tests.serving import serving as serving_app

__all__ = ["modules"]

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="there is no node")


@pytest.fixture(scope="module")
def components(modules: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The langgraph.json of a project that has the bundler; nothing is bundled yet."""
    directory = tmp_path_factory.mktemp("components") / "project"
    shutil.copytree(HERE / "components", directory)
    (directory / "node_modules").symlink_to(HERE / "node_modules")
    config = directory / "langgraph.json"
    sections = {
        "graphs": {"agent": "./agent.py:graph"},
        "ui": {"agent": "./ui.tsx"},
        "ui_config": {"shared": ["shared-with-the-page"]},
    }
    config.write_text(json.dumps(sections))
    return config


def build(config: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command("build-ui", "--config", str(config)),
        cwd=ROOT,
        env=environment({}),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


@pytest.fixture(scope="module")
def served(servers: Servers, components: Path) -> Iterator[ServerProcess]:
    """A server that refuses to serve what is not built."""
    built = build(components)
    assert built.returncode == 0, built.stdout + built.stderr
    with empty_database(servers) as database:
        variables = {
            "DATABASE_URL": database,
            "REDIS_URL": servers.redis_url,
            "THREADWELL_STRICT": "true",
        }
        with serving(components, variables) as server:
            yield server


@pytest.mark.parametrize("sdk", ["langgraph-sdk-1", "langgraph-sdk-2"])
def test_the_sdk_shows_components_of_the_server(sdk: str, served: ServerProcess) -> None:
    ran = subprocess.run(
        ["node", "--test", "--test-force-exit", "--test-timeout=240000", "ui.test.mjs"],
        cwd=HERE,
        env=environment({"THREADWELL_URL": served.url, "SDK": sdk}),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.fixture
def files(modules: None, tmp_path: Path) -> Path:
    """A page that shows what the server has, for another server."""
    files = tmp_path / "files"
    bundler = [str(HERE / "node_modules/.bin/esbuild"), "page.jsx", "--bundle", "--jsx=automatic"]
    subprocess.run(
        [*bundler, f"--outfile={files}/page.js", "--log-level=error"],
        cwd=HERE, check=True, timeout=SECONDS,
    )  # fmt: skip
    (files / "index.html").write_text('<body><script src="page.js"></script></body>')
    return files


@pytest.mark.skipif(CHROMIUM is None, reason="no browser is installed")
async def test_a_browser_shows_a_component_of_another_origin(
    served: ServerProcess, files: Path, tmp_path: Path
) -> None:
    async with (
        serving_app(StaticFiles(directory=files, html=True)) as url,
        page(tmp_path / "browser", f"{url}/?api={served.url}") as evaluate,
    ):
        seen = await evaluate("seen()")

    assert seen == ["Oslo: 7 °C, after 2 messages", "of the page", "rgb(102, 51, 153)"]


def test_a_component_that_cannot_be_bundled_is_told_and_the_last_bundles_stay(
    components: Path, served: ServerProcess
) -> None:
    before = sorted(components.parent.rglob("ui-bundles/**/*"))
    (components.parent / "ui.tsx").write_text("export default {")

    failed = build(components)

    assert failed.returncode == 1
    assert "ui.tsx:1:16: ERROR" in failed.stderr, failed.stderr
    assert "langgraphjs-ui failed with status 1" in failed.stderr
    assert sorted(components.parent.rglob("ui-bundles/**/*")) == before
    assert len(before) >= 3
