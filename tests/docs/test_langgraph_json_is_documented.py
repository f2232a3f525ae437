"""docs/langgraph-json.md names every key that is read, refused or left out."""

from pathlib import Path

import pytest

from api.settings import SECTIONS, WITHOUT_EFFECT
from graph import config
from graph.http_section import Cors, HeaderRule, Http

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "langgraph-json.md").read_text()
KEYS = {
    *config._BUILD_KEYS - {"_INTERNAL_docker_tag"},
    *config._READ_KEYS - {"checkpointer", "http"},
    *Http.model_fields,
    *Cors.model_fields,
    *HeaderRule.model_fields,
    *SECTIONS,
    "checkpointer.ttl", "checkpointer.serde", "ui", "priority",
    "allowed_msgpack_modules", "allowed_json_modules", "pickle_fallback", "LANGGRAPH_THREAD_TTL",
}  # fmt: skip


@pytest.mark.parametrize("key", sorted(KEYS))
def test_a_key_is_documented(key: str) -> None:
    assert f"`{key}`" in PAGE


@pytest.mark.parametrize("name", [*WITHOUT_EFFECT, "LANGGRAPH_AES_KEY"])
def test_a_variable_without_effect_is_documented(name: str) -> None:
    assert f"`{name}`" in (DOCS / "settings.md").read_text()
