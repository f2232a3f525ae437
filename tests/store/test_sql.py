"""Every query in a .sql file is valid on the migrated schema, and some module uses it."""

import re
from collections.abc import Iterator
from importlib.resources import files

import psycopg
import pytest

from api.processes.embedded import Servers
from store.sql import load
from tests.conftest import cloned

FOLDER = files("store.sql")
MODULES = sorted(f.name.removesuffix(".sql") for f in FOLDER.iterdir() if f.name.endswith(".sql"))
QUERIES = [(module, name) for module in MODULES for name in load(module)]
SOURCES = {f.name: f.read_text("utf-8") for f in files("store").iterdir() if f.name.endswith(".py")}


@pytest.fixture(scope="module")
def connection(servers: Servers, template: str) -> Iterator[psycopg.Connection]:
    """One for all queries: what is only explained changes nothing."""
    with cloned(servers, template) as url, psycopg.connect(url, autocommit=True) as connection:
        yield connection


@pytest.mark.parametrize(("module", "name"), QUERIES)
def test_query_is_valid_on_the_migrated_schema(
    connection: psycopg.Connection, module: str, name: str
) -> None:
    query = re.sub(r"%\(\w+\)[sb]|%s", "NULL", load(module)[name]).replace("%%", "%")
    connection.execute(f"EXPLAIN {query}".encode())


@pytest.mark.parametrize("module", MODULES)
def test_every_query_is_used(module: str) -> None:
    users = [text for text in SOURCES.values() if f'load("{module}")' in text]
    unused = [name for name in load(module) if not any(f'"{name}"' in text for text in users)]

    assert users
    assert unused == []
