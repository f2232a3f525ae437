"""Who may touch what: conditions on the metadata of threads, assistants and crons."""

from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal, LiteralString

from store.cipher import Cipher
from store.json import dump_json
from store.models import JsonObject

Role = Literal["viewer", "editor"]

#: The key of a thread's metadata that says whom it is shared with: their roles by their identities.
#: Only `store.shares` writes it.
MEMBERS: Final = "members"
#: The keys of metadata that say whose something is; the first one that is there counts.
OWNER_KEYS: Final = ("owner", "user_id")
#: The key of a session's metadata while it is being imported, and by whom; only the server sets it.
UNDER_WAY: Final = "import_under_way"
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


def looking_for(
    cipher: Cipher, metadata: JsonObject, query: LiteralString
) -> tuple[JsonObject, LiteralString]:
    """
    How metadata is looked for: the parameters, and the query that has ``@> %(metadata)s::jsonb``.

    While keys are changed what is looked for may lie there in more than one form.
    """
    forms = cipher.forms(metadata)
    if len(forms) == 1:
        return {"metadata": forms[0]}, query
    any_form = query.replace("@> %(metadata)s::jsonb", "@> ANY(%(forms)s::jsonb[])")
    return {"metadata": forms[0], "forms": Access(tuple(forms)).array}, any_form


def _element(contained: JsonObject) -> str:
    text = dump_json(contained).decode()
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


#: For a server without authentication, and for what the server does of its own accord.
EVERYTHING: Final = Access(({},))
