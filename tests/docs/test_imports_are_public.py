"""What the pages have users import is there, and is of the package `threadwell`."""

import importlib
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = {page.name: page.read_text() for page in [ROOT / "README.md", *ROOT.glob("docs/*.md")]}
CODE = re.compile(r"^```python[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
IMPORT = re.compile(r"^ *from (threadwell[\w.]*) import ([\w, ]+)", re.MULTILINE)
NAME = re.compile(r"`(?:async with |await )?(threadwell\.\w+)\.(\w+)")
INTERNAL = re.compile(r"^ *(?:from|import) (?:api|graph|store)\b.*", re.MULTILINE)


def test_what_a_page_has_users_import_is_there() -> None:
    named = {
        (module, name.strip())
        for text in PAGES.values()
        for module, names in [*IMPORT.findall(text), *NAME.findall(text)]
        for name in names.split(",")
    }
    assert ("threadwell.files", "Inflating") in named
    missing = [
        (module, name)
        for module, name in named
        if not hasattr(importlib.import_module(module), name)
    ]
    assert missing == []


def test_no_page_has_users_import_what_is_internal() -> None:
    found = [
        (page, line)
        for page, text in PAGES.items()
        for code in CODE.findall(text)
        for line in INTERNAL.findall(code)
    ]
    assert found == []
