"""docs/settings.md says of every setting what the code says of it, and names no other."""

import re
from pathlib import Path

import pytest

from api.console.table import COMMANDS
from api.settings import Settings, environment_names

PAGE = (Path(__file__).parents[2] / "docs/settings.md").read_text()
ROWS = {row.split("`")[1]: row for row in PAGE.splitlines() if row.startswith("| `")}


def shown_default(field: str) -> str:
    default = Settings.model_fields[field].default
    if default is None:
        return "unset"
    if default in ("", ()):
        return "empty"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{','.join(map(str, default))}`" if isinstance(default, tuple) else f"`{default}`"


@pytest.mark.parametrize("field", Settings.model_fields)
def test_a_setting_is_documented_with_its_names_flag_default_and_meaning(field: str) -> None:
    documented, *others = environment_names(field)
    _, _, flag, default, meaning, _ = re.split(r"\s*\|\s*", ROWS[documented])
    has_flag = any(field in command.settings for command in COMMANDS.values())
    assert flag == (f"`--{field.replace('_', '-')}`" if has_flag else "")
    assert default == shown_default(field)
    assert meaning.startswith(str(Settings.model_fields[field].description))
    assert all(f"`{name}`" in meaning for name in others)


def test_every_documented_setting_exists() -> None:
    assert set(ROWS) == {environment_names(field)[0] for field in Settings.model_fields}
