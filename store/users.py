"""Users of the project that Threadwell stands in for; see `THREADWELL_COMPAT`."""

from dataclasses import dataclass, field
from typing import Final

from store.database import Database
from store.errors import AlreadyExistsError
from store.sql import load

SQL: Final = load("users")


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalUser:
    """Somebody who registered."""

    id: str
    username: str
    password_hash: str = field(repr=False)


async def create(db: Database, id_: str, *, username: str, password_hash: str) -> LocalUser:
    """
    Keep a new user.

    Raises:
        AlreadyExistsError: The name is taken.
    """
    params = {"id": id_, "username": username, "password_hash": password_hash}
    created = await db.one(LocalUser, SQL["create"], params)
    if created is None:
        raise AlreadyExistsError("The user name is taken")
    return created


async def find(db: Database, username: str) -> LocalUser | None:
    """The user of a name, if there is one."""
    return await db.one(LocalUser, SQL["by_name"], {"username": username})


async def keep(db: Database, id_: str, *, username: str, password_hash: str) -> bool:
    """Keep a user from elsewhere, unless the id or the name is here; whether it was not."""
    params = {"id": id_, "username": username, "password_hash": password_hash}
    return bool(await db.tuples(SQL["keep"], params))


async def rehash(db: Database, id_: str, password_hash: str) -> None:
    """Keep another hash of a user's password."""
    await db.execute(SQL["rehash"], {"id": id_, "password_hash": password_hash})
