"""
The names of Threadwell's own packages, which a user's project may have for packages of its own.

A process has one package of a name, and these are ours: a project that imports `graph.nodes` of its
own does not find it. What Python says then, "No module named 'graph.nodes'", leads nobody to it.
"""

import ast
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from functools import partial
from os.path import isdir, isfile
from pathlib import Path
from typing import Final

#: What nobody but Threadwell can call a package that a served graph imports.
TAKEN: Final = ("api", "graph", "store", "threadwell")

_OURS = Path(__file__).resolve().parents[1]
_INSTALLED: Final = ("stdlib", "platstdlib", "purelib", "platlib")


def clash(start: Path | str) -> str | None:
    """
    What is wrong with the names in a user's module, and in what it imports of its project; or None.

    Reads files and imports nothing. Imports below an ``if`` or a ``try`` are passed over, since the
    project may have another way.

    Args:
        start: The file, or the dotted name of the module.
    """
    directories = _directories()
    if not any(_find(name, directories) for name in TAKEN):
        return None
    if isinstance(start, Path):
        return _clash_below([start], directories)
    if _is_taken(start) and (theirs := _find(start, directories)):
        return _told(f"langgraph.json names `{start}`", start, theirs)
    return _clash_below(_files(start, directories), directories)


def _clash_below(files: list[Path], directories: Sequence[Path]) -> str | None:
    """What is wrong in the first of these files, and of those that they import, that has a fault."""
    seen = set(files)
    while files:
        file = files.pop(0)
        for line, level, name in _imports(file):
            if level:
                found = _files(name, [*file.parents][level - 1 : level])
            elif not _is_taken(name):
                found = _files(name, directories)
            elif theirs := _find(name, directories):
                return _told(f"{file}:{line} imports `{name}`", name, theirs)
            else:
                found = []
            files += [path for path in found if path not in seen]
            seen.update(found)
    return None


def _told(fact: str, name: str, theirs: Path) -> str:
    top = name.partition(".")[0]
    return (
        f"{fact} and gets the package `{top}` of Threadwell, not {theirs}. Rename yours, for "
        f"instance to `my_{top}`: the names {', '.join(TAKEN)} are taken "
        "(docs/langgraph-json.md)"
    )


def _is_taken(name: str) -> bool:
    return name.partition(".")[0] in TAKEN


def _directories() -> list[Path]:
    """Where Python looks for modules that are not installed, ours left out."""
    installed = {Path(sysconfig.get_path(name)).resolve() for name in _INSTALLED}
    found = (Path(entry or ".").resolve() for entry in sys.path)
    return [
        path
        for path in dict.fromkeys(found)
        if path != _OURS and not installed & {path, *path.parents}
    ]


def _find(name: str, directories: Sequence[Path]) -> Path | None:
    """The file of a module, or the directory of a package without an `__init__.py`."""
    for path in (directory.joinpath(*name.split(".")) for directory in directories):
        # Not pathlib's, which raise where Python passes by: of a directory that nobody may enter.
        if isfile(package := path / "__init__.py"):
            return package
        if isfile(module := path.with_name(f"{path.name}.py")):
            return module
        if isdir(path) and any(path.glob("*.py")):
            return path
    return None


def _files(name: str, directories: Sequence[Path]) -> list[Path]:
    """The files that importing a module of the project executes."""
    parts = name.split(".")
    names = (".".join(parts[:count]) for count in range(1, len(parts) + 1))
    found = map(partial(_find, directories=directories), names)
    return [path for path in found if path is not None and isfile(path)]


def _imports(file: Path) -> Iterator[tuple[int, int, str]]:
    """What a module imports whatever happens: each with its line and, if it is relative, its level."""
    try:
        module = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        # Whoever imports it is told.
        return
    yield from _imports_of(module.body)


def _imports_of(statements: Sequence[ast.stmt]) -> Iterator[tuple[int, int, str]]:
    for statement in statements:
        if isinstance(statement, ast.Import):
            yield from ((statement.lineno, 0, alias.name) for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            module = statement.module or ""
            if module:
                yield statement.lineno, statement.level, module
            for alias in statement.names:
                # It may be a module.
                name = f"{module}.{alias.name}".lstrip(".")
                yield statement.lineno, statement.level, name
        elif isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from _imports_of(statement.body)
