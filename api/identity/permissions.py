"""
What built-in identities may do: permissions, as ``threads:read``, and roles, which are several of them.

Their resources and actions are those of the handlers of a custom `Auth`, and a few of our own.
"""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final

from store.errors import InvalidInputError

#: The actions of what the server knows; other resources mean something to graphs alone.
ACTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "assistants": ("create", "read", "update", "delete", "search"),
    "threads": ("create", "read", "update", "delete", "search", "create_run"),
    "crons": ("create", "read", "update", "delete", "search"),
    "store": ("put", "get", "delete", "search", "list_namespaces"),
    "webhooks": ("create", "read", "update", "delete"),
    # To do what a user may, in their name; to see and change what is anybody's; their data as a whole.
    "users": ("act_for", "all", "export", "erase"),
    "audit": ("read",),
    "metrics": ("read",),
}
#: What is somebody's own. The rest is about others, and is not kept by who acts for a user.
_OWN: Final = ("assistants", "threads", "crons", "store", "webhooks")
_READING: Final = ("read", "search", "get", "list_namespaces")

_READER: Final = tuple(f"{name}:{one}" for name in _OWN for one in ACTIONS[name] if one in _READING)
_USER: Final = tuple(f"{name}:*" for name in _OWN)

ROLES: Final[Mapping[str, tuple[str, ...]]] = {
    # One's own things, to look at.
    "reader": _READER,
    # One's own things.
    "user": _USER,
    # One's own things, and those of the users that one acts for.
    "service": (*_USER, "users:act_for"),
    # Everything, and everybody's.
    "admin": ("*",),
}

_PERMISSION: Final = re.compile(r"\*|[a-zA-Z0-9_.-]{1,64}:([a-zA-Z0-9_.-]{1,64}|\*)")
_MAX_IDENTITY: Final = 255


def is_granted(permissions: Iterable[str], wanted: str) -> bool:
    """Whether some permissions have one: itself, all of its resource, or all."""
    return not _ways(wanted).isdisjoint(permissions)


@lru_cache(maxsize=256)
def _ways(wanted: str) -> frozenset[str]:
    return frozenset({wanted, f"{wanted.partition(':')[0]}:*", "*"})


def granted(roles: Iterable[str], permissions: Iterable[str]) -> list[str]:
    """All that some roles and permissions come to; roles that are not known come to nothing."""
    of_roles = (one for role in roles for one in ROLES.get(role, ()))
    return list(dict.fromkeys([*of_roles, *permissions]))


def of_user(permissions: Iterable[str]) -> list[str]:
    """What is left of permissions to who acts for a user: nothing about others."""
    own = (_USER if one == "*" else (one,) for one in permissions)
    flat = (one for several in own for one in several)
    others = ACTIONS.keys() - set(_OWN)
    return list(dict.fromkeys(one for one in flat if one.partition(":")[0] not in others))


def is_permission(text: str) -> bool:
    """Whether a text has the form of a permission."""
    return _PERMISSION.fullmatch(text) is not None


def check(roles: Iterable[str], permissions: Iterable[str]) -> None:
    """
    Refuse what would grant nothing, or not what it seems to.

    Raises:
        InvalidInputError: There is no such role, or a permission is none.
    """
    for role in roles:
        if role not in ROLES:
            raise InvalidInputError(f"There is no role {role!r}; there are {', '.join(ROLES)}")
    for permission in permissions:
        resource, _, action = permission.partition(":")
        actions = ACTIONS.get(resource)
        known = actions is None or action == "*" or action in actions
        if not is_permission(permission) or not known:
            raise InvalidInputError(f"{permission!r} is no permission; see docs/auth.md")


def is_identity(text: object) -> bool:
    """Whether a text can be who somebody is: printable, and of 1 to 255 characters."""
    return (
        isinstance(text, str)
        and 0 < len(text) <= _MAX_IDENTITY
        and text.isprintable()
        and text == text.strip()
    )
