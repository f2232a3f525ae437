"""Who may touch what: conditions on the metadata of threads, assistants and crons."""

from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

from store.json import dump_json
from store.models import JsonObject

Role = Literal["viewer", "editor"]

#: The key of a thread's metadata that says whom it is shared with: their roles by their identities.
#: Only `store.shares` writes it.
MEMBERS: Final = "members"
ROLES: Final[tuple[Role, ...]] = ("viewer", "editor")


@dataclass(frozen=True)
class Access:
    """
    The rows that somebody may read or change; what is not visible is not there.

    It is the last condition of every read and write that a request leads to, in SQL:
    ``AND t.metadata @> ANY(%(visible)s::jsonb[])``.

    Args:
        visible: A row may be touched if its metadata contains one of these; none for no row.
    """

    visible: tuple[JsonObject, ...]

    @cached_property
    def array(self) -> str:
        """`visible` as PostgreSQL writes a ``jsonb[]``: the parameter of a query."""
        return f"{{{','.join(_element(contained) for contained in self.visible)}}}"

    def of_members(self, identity: str, roles: tuple[Role, ...]) -> "Access":
        """This, and the threads that are shared with somebody in one of some roles."""
        if not roles or {} in self.visible:
            return self
        return Access((*self.visible, *Access.of_memberships(identity, roles).visible))

    @staticmethod
    def of_memberships(identity: str, roles: tuple[Role, ...] = ROLES) -> "Access":
        """The threads that are shared with somebody in one of some roles, and no others."""
        return Access(tuple({MEMBERS: {identity: role}} for role in roles))


def _element(contained: JsonObject) -> str:
    text = dump_json(contained).decode()
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


#: For a server without authentication, and for what the server does of its own accord.
EVERYTHING: Final = Access(({},))
