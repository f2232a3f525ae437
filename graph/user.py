"""Who a run is executed for, as nodes and the handlers of an `Auth` see it."""

from collections.abc import Iterator, KeysView
from contextvars import ContextVar
from typing import Any

from langgraph_sdk.auth.types import StudioUser as SdkStudioUser

from store.models import JsonObject

#: What tells Studio's user from others, in JSON too.
_STUDIO = "StudioUser"


class User:
    """
    A user by attribute, by key, and as JSON; it outlives the request in a run's row.

    Args:
        fields: ``identity``, ``is_authenticated``, ``display_name``, and whatever else is known.
        source: An object whose attributes are this user's too; it is not part of the JSON.
    """

    def __init__(self, fields: JsonObject, source: Any = None) -> None:
        self._fields = fields
        self._source = source

    @property
    def identity(self) -> str:
        """Who it is."""
        return str(self._fields["identity"])

    @property
    def display_name(self) -> str:
        """What to call them."""
        return str(self._fields.get("display_name", self.identity))

    @property
    def is_authenticated(self) -> bool:
        """Whether somebody vouched for them."""
        return bool(self._fields.get("is_authenticated", True))

    @property
    def permissions(self) -> list[str]:
        """What they were granted."""
        granted = self._fields.get("permissions")
        return list(granted if granted is not None else getattr(self._source, "permissions", ()))

    def becoming(self, **fields: Any) -> "User":
        """Somebody of other fields, known by the same."""
        return User({**self._fields, **fields}, self._source)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name in self._fields:
            value = self._fields[name]
            return _Attributes(value) if isinstance(value, dict) else value
        if self._source is not None:
            return getattr(self._source, name)
        raise AttributeError(f"The user has no {name!r}")

    def __getitem__(self, key: str) -> Any:
        return self._fields[key]

    def __contains__(self, key: object) -> bool:
        return key in self._fields

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def get(self, key: str, default: Any = None) -> Any:
        """A field, or something else if there is none."""
        return self._fields.get(key, default)

    def keys(self) -> KeysView[str]:
        """The names of the fields."""
        return self._fields.keys()

    def items(self) -> Any:
        """The fields by name."""
        return self._fields.items()

    def values(self) -> Any:
        """The fields."""
        return self._fields.values()

    def dict(self) -> JsonObject:
        """All of it as JSON."""
        return {**self._fields}

    def model_dump(self) -> JsonObject:
        """All of it as JSON."""
        return self.dict()


class StudioUser(User, SdkStudioUser):
    """Somebody who works with Studio."""

    def __init__(self, fields: JsonObject) -> None:
        SdkStudioUser.__init__(self, fields["identity"])
        User.__init__(self, fields)


class _Attributes(dict[str, Any]):
    """A field that is an object, by attribute too."""

    def __getattr__(self, name: str) -> Any:
        try:
            value = self[name]
        except KeyError:
            raise AttributeError(name) from None
        return _Attributes(value) if isinstance(value, dict) else value


#: On whose behalf something is done now: a request's, and that of all that it starts.
_CURRENT: ContextVar[User | None] = ContextVar("user", default=None)


def act_for(user: User) -> None:
    """Do what follows in this context on behalf of a user."""
    _CURRENT.set(user)


def current_user() -> User | None:
    """On whose behalf something is done; None if nobody was authenticated."""
    return _CURRENT.get()


def studio_user() -> StudioUser:
    """The one user that Studio has."""
    name = "langgraph-studio-user"
    fields = {
        "kind": _STUDIO,
        "is_authenticated": False,
        "display_name": name,
        "identity": name,
        "permissions": [],
    }
    return StudioUser(fields)


def user_of(fields: Any) -> User | None:
    """The user that a run's row tells of; None if nobody was authenticated."""
    if not isinstance(fields, dict) or "identity" not in fields:
        return None
    return StudioUser(fields) if fields.get("kind") == _STUDIO else User(fields)


def label_of(identity: str) -> str:
    """An identity as a label of a namespace of the store: no dots there, and `*` would stand for any."""
    return identity.replace("%", "%25").replace(".", "%2E").replace("*", "%2A")
