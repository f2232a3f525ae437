"""Headers of a request that are copied: into a run's configurable, or into the log."""

import re
from collections.abc import Iterable

from starlette.datastructures import Headers

from graph.http_section import HeaderRule

#: Who may call is not a graph's affair, nor the log's, whatever the patterns say.
NEVER = frozenset(
    {
        "authorization",
        "cookie",
        "proxy-authorization",
        # A token may stand there beside `bearer`.
        "sec-websocket-protocol",
        "x-api-key",
        "x-openwebui-user-jwt",
        "x-service-key",
        "x-share-password",
        "x-tenant-id",
    }
)
#: Keys of a configurable that are the server's own.
RESERVED = ("__", "checkpoint_", "langgraph_")
#: Of distributed tracing; in the configurable of every run whose request has them.
TRACING = ("langsmith-trace", "baggage")


class HeaderFilter:
    """
    Picks the headers that a rule of langgraph.json names.

    Args:
        rule: Its excludes win over its includes; in both, ``*`` stands for anything.
        also: Patterns to include besides.
    """

    def __init__(self, rule: HeaderRule, *, also: Iterable[str] = ()) -> None:
        self._includes = _pattern([*rule.includes, *also])
        self._excludes = _pattern(rule.excludes)

    def of(self, headers: Headers) -> dict[str, str]:
        """The headers that are picked, by their names in lower case."""
        if self._includes is None:
            return {}
        return {
            # What PostgreSQL cannot store is not in a header either, by rights.
            name: value.replace("\0", "\N{REPLACEMENT CHARACTER}")
            for name, value in headers.items()
            if name not in NEVER
            and not name.startswith(RESERVED)
            and self._includes.fullmatch(name)
            and not (self._excludes and self._excludes.fullmatch(name))
        }


def _pattern(globs: Iterable[str]) -> re.Pattern[str] | None:
    parts = [re.escape(glob.lower()).replace(r"\*", ".*") for glob in globs]
    return re.compile("|".join(parts)) if parts else None
