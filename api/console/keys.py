"""What `threadwell keys` does: makes, lists and revokes API keys."""

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Final

import orjson

from api.identity.keys import PREFIX, issue
from api.identity.permissions import check, is_identity
from store import keys
from store.database import Database
from store.errors import InvalidInputError
from store.keys import Key

#: Does it, and says what there is to say.
Plan = Callable[[Database], Awaitable[str]]

_SECONDS: Final = {"m": 60.0, "h": 3600.0, "d": 86_400.0}
_MAX_SECONDS: Final = 36_525 * 86_400.0
_MAX_NAME: Final = 255


def plan(
    action: str,
    key_id: str | None,
    *,
    owner: str | None,
    name: str,
    role: Sequence[str] | None,
    permission: Sequence[str] | None,
    expires: str,
    json: bool,
) -> Plan:
    """
    What is to be done, before anything is started for it.

    Raises:
        InvalidInputError: It is not clear, or not to be done.
    """
    if action == "list":
        return lambda db: _list(db, owner, json=json)
    if action == "revoke":
        if key_id is None:
            raise InvalidInputError("Which key? `threadwell keys list` shows their ids")
        return lambda db: _revoke(db, _id_of(key_id), json=json)
    if not is_identity(owner):
        raise InvalidInputError(
            "--owner says who calls with the key, by 1 to 255 printable characters"
        )
    if len(name) > _MAX_NAME or not (name.isprintable()):
        raise InvalidInputError("--name is at most 255 printable characters")
    permissions = list(permission or ())
    roles = list(role or ([] if permissions else ["user"]))
    check(roles, permissions)
    seconds = _seconds(expires)
    return lambda db: _create(db, str(owner), name, roles, permissions, seconds, json=json)


async def _create(
    db: Database,
    owner: str,
    name: str,
    roles: list[str],
    permissions: list[str],
    seconds: float | None,
    *,
    json: bool,
) -> str:
    issued = issue()
    key = await keys.create(
        db,
        issued.key_id,
        secret_hash=issued.secret_hash,
        owner=owner,
        name=name,
        roles=roles,
        permissions=permissions,
        expires_seconds=seconds,
    )
    # Alone, so that a script can take it; it is shown this once.
    return _json({**_shown(key), "key": issued.text}) if json else issued.text


async def _list(db: Database, owner: str | None, *, json: bool) -> str:
    found = await keys.list_all(db, owner=owner)
    if json:
        return _json([_shown(key) for key in found])
    return _table(
        [("KEY", "OWNER", "NAME", "MAY", "MADE", "LAST USED", "UNTIL")]
        + [
            (
                PREFIX + key.key_id,
                key.owner,
                key.name or "-",
                ",".join([*key.roles, *key.permissions]) or "-",
                _time(key.created_at),
                _time(key.last_used_at),
                _until(key),
            )
            for key in found
        ]
    )


async def _revoke(db: Database, key_id: str, *, json: bool) -> str:
    key = await keys.revoke(db, key_id)
    return _json(_shown(key)) if json else f"{PREFIX}{key.key_id} of {key.owner} is revoked"


def _id_of(text: str) -> str:
    return text.removeprefix(PREFIX).partition("_")[0]


def _seconds(expires: str) -> float | None:
    """
    How long a key lives.

    Raises:
        InvalidInputError: That is not said.
    """
    if expires == "never":
        return None
    found = re.fullmatch(r"(\d{1,9})([mhd])", expires)
    seconds = int(found[1]) * _SECONDS[found[2]] if found else 0.0
    if not 0 < seconds <= _MAX_SECONDS:
        raise InvalidInputError("--expires is a time, as 30m, 12h or 90d, or never")
    return seconds


def _shown(key: Key) -> dict[str, object]:
    shown = asdict(key)
    del shown["secret_hash"], shown["expires_in_seconds"]
    return {**shown, "key_id": PREFIX + key.key_id}


def _json(found: object) -> str:
    return orjson.dumps(found, option=orjson.OPT_INDENT_2).decode()


def _time(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M}" if at else "-"


def _until(key: Key) -> str:
    if key.revoked_at:
        return f"revoked {_time(key.revoked_at)}"
    return (
        f"{'expired ' if key.is_expired else ''}{_time(key.expires_at)}"
        if key.expires_at
        else "never"
    )


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)
