"""Whether `api`, `graph` and `store` are Threadwell's in this process, or an application's own."""

from importlib.util import find_spec
from pathlib import Path

_HERE = Path(__file__).resolve().parents[1]


def require(*names: str) -> None:
    """
    Say so before an import of ours finds what is not ours; imports nothing itself.

    Raises:
        ImportError: A package of one of these names comes first.
    """
    for name in names:
        spec = find_spec(name)
        found = [Path(path).resolve() for path in (spec and spec.submodule_search_locations) or ()]
        if spec is None or _HERE / name in found:
            continue
        theirs = found[0] if found else spec.origin
        raise ImportError(
            f"Threadwell has a package `{name}` of its own, and in this process `import {name}` gives "
            f"{theirs}. Move yours into a package, for instance to `mysite.{name}`; or run `threadwell "
            "serve` beside your application, and reach it by its URL (docs/existing-project.md)",
            name=name,
        )
