"""
URLs of PostgreSQL and Redis, looked at before anything connects by them.

What drivers say of a URL that they cannot read quotes it, with the password in it: here nothing of it is
said. Nor is a password taken for a host or a port, which is what becomes of one with a slash.
"""

import psycopg
from psycopg.conninfo import conninfo_to_dict
from redis.asyncio.connection import parse_url

from store.errors import InvalidInputError


def check_postgres(url: str) -> None:
    """
    Look whether libpq reads a URL as whoever wrote it meant it.

    Raises:
        InvalidInputError: It cannot.
    """
    try:
        parts = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise _unreadable() from None
    hosts, ports = (str(parts.get(name) or "").split(",") for name in ("host", "port"))
    # A host that begins with it is an abstract socket.
    are_hosts = all("@" not in host[1:] for host in hosts)
    if _has_at_in_path(url) or not are_hosts or not all(port.isdecimal() for port in ports if port):
        raise _unreadable()


def check_redis(url: str) -> None:
    """
    Look whether the client of Redis can read a URL.

    Raises:
        InvalidInputError: It cannot.
    """
    try:
        parse_url(url)
    except ValueError:
        raise _unreadable() from None
    if _has_at_in_path(url):
        raise _unreadable()


def _has_at_in_path(url: str) -> bool:
    """Whether a slash in the password has ended what is before the path."""
    path = url.partition("://")[2].partition("?")[0].partition("/")[2]
    return "@" in path


def _unreadable() -> InvalidInputError:
    return InvalidInputError(
        "cannot be read as a URL: in a user's name and password every character but letters and "
        "digits has to be percent-encoded, as %2F for a slash"
    )
