"""
Where this server may send what a user tells it to: a policy for URLs, and connections that keep it.

A URL is a stranger's: it may name this machine, its network, or the metadata service of its cloud,
and its name may lead elsewhere by the time of sending than when it was checked. So addresses are
checked, not names: all that a name leads to, by whoever opens the connection, and the connection
is made to an address that was checked. The name stays in the request and in the TLS handshake.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Final
from urllib.parse import SplitResult, urlsplit

import httpcore2
from httpcore2 import AsyncNetworkBackend, AsyncNetworkStream

from store.errors import InvalidInputError

Address = IPv4Address | IPv6Address
#: The addresses that a name leads to, as text.
Resolve = Callable[[str, int], Awaitable[list[str]]]

#: How long a name may take to be resolved.
RESOLVE_SECONDS: Final = 5.0
#: How many names are asked for at a time.
RESOLVED_AT_ONCE: Final = 8
#: How many addresses of a name are tried.
ADDRESSES_TRIED: Final = 4

#: The code of the error for a name that leads nowhere, which may change.
UNRESOLVED: Final = "unresolved_host"

PORTS: Final = {"http": 80, "https": 443}

_LOOPBACK: Final = "loopback IP range"
_BLOCKED: Final = "blocked IP range"
_PRIVATE: Final = "private IP range"
_METADATA: Final = "cloud metadata endpoint"
_NO_RELATIVE: Final = (
    "A relative URL names this server, which nothing is sent to here: give a whole URL"
)
_LOOPBACK_IS_OFF: Final = (
    "Loopback webhooks (relative URLs and localhost) are disabled by default: "
    "set webhooks.url.disable_loopback to false in langgraph.json to allow them"
)

#: Services of clouds that hand out credentials to whoever asks; the link-local ones are below.
_METADATA_ADDRESSES: Final = frozenset(
    map(ip_address, ("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254"))
)
_PRIVATE_NETWORKS: Final[tuple[IPv4Network | IPv6Network, ...]] = tuple(
    map(
        ip_network,
        (
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "100.64.0.0/10",
            "fc00::/7",
            "fec0::/10",
        ),
    )
)
#: Ways to write an IPv4 address as an IPv6 one: the network, and how far right it stands in it.
_EMBEDDINGS: Final = tuple(
    (IPv6Network(network), shift)
    for network, shift in (
        ("::ffff:0:0/96", 0),
        ("::ffff:0:0:0/96", 0),
        ("::/96", 0),
        ("64:ff9b::/96", 0),
        ("64:ff9b:1::/48", 0),
        ("2002::/16", 80),
    )
)


@dataclass(frozen=True, kw_only=True, slots=True)
class UrlRules:
    """`webhooks.url` of langgraph.json."""

    require_https: bool = False
    #: Hosts, or ``*.`` and a domain for what is below it; none for any.
    allowed_domains: tuple[str, ...] = ()
    #: None for any.
    allowed_ports: tuple[int, ...] = ()
    max_url_length: int = 2048
    disable_loopback: bool = True
    #: None where langgraph.json does not say: refused of webhooks that users register, if anybody is asked
    #: who they are; not of those that runs name, as on the reference.
    disable_private_ips: bool | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """A URL in its parts, as they go to the wire: it is not parsed a second time."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def url(self) -> httpcore2.URL:
        """For the client."""
        return httpcore2.URL(scheme=self.scheme, host=self.host, port=self.port, target=self.path)

    @property
    def authority(self) -> str:
        """The Host of the request."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"


def parse(url: str, rules: UrlRules) -> Target:
    """
    Take a URL apart that keeps the rules, as far as that can be told without asking for its name.

    Raises:
        InvalidInputError: It does not, or it is no URL.
    """
    if len(url) > rules.max_url_length:
        raise InvalidInputError("Webhook URL too long")
    parts, port = _split(url)
    if not parts.scheme and not parts.netloc:
        raise InvalidInputError(_LOOPBACK_IS_OFF if rules.disable_loopback else _NO_RELATIVE)
    if parts.scheme not in PORTS:
        raise _blocked(f"scheme '{parts.scheme}' not allowed")
    if rules.require_https and parts.scheme != "https":
        raise InvalidInputError("Webhook must use https")
    if parts.username is not None or parts.password is not None:
        raise InvalidInputError("Webhook URL must not hold a user name or password")
    host = _host(parts.hostname or "")
    port = PORTS[parts.scheme] if port is None else port
    _check_place(host, port, rules)
    query = f"?{parts.query}" if parts.query else ""
    return Target(parts.scheme, host, port, _quoted((parts.path or "/") + query))


def own_path(url: str, rules: UrlRules) -> str | None:
    """
    The path on this very server, and query, that a relative URL names; None for a whole URL.

    Raises:
        InvalidInputError: It is relative, and against the rules or no path.
    """
    if len(url) > rules.max_url_length:
        raise InvalidInputError("Webhook URL too long")
    parts, _ = _split(url)
    if parts.scheme or parts.netloc:
        return None
    if rules.disable_loopback:
        raise InvalidInputError(_LOOPBACK_IS_OFF)
    if not parts.path.startswith("/") or parts.fragment:
        raise InvalidInputError("A relative webhook URL is a path that begins with a slash")
    query = f"?{parts.query}" if parts.query else ""
    return _quoted(parts.path + query)


def _check_place(host: str, port: int, rules: UrlRules) -> None:
    if rules.allowed_domains and not _is_allowed(host, rules.allowed_domains):
        raise InvalidInputError("Webhook domain not allowed")
    if rules.allowed_ports and port not in rules.allowed_ports:
        raise InvalidInputError(f"Webhook port {port} not allowed")
    if rules.disable_loopback and (host == "localhost" or host.endswith(".localhost")):
        raise _blocked("localhost address")


def _split(url: str) -> tuple[SplitResult, int | None]:
    # What parsers disagree on, or what would begin a line of its own in the request.
    if not url.isprintable() or "\\" in url or " " in url:
        raise InvalidInputError("Webhook URL has a character that is not allowed in it")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise InvalidInputError(f"Invalid webhook URL: {exc}") from exc
    if port == 0:
        raise InvalidInputError("Invalid webhook URL: port 0")
    return parts, port


def _host(name: str) -> str:
    """The name as it is asked for: ASCII, lower case, without the root's period."""
    name = name.rstrip(".")
    host = ""
    with suppress(UnicodeError):
        host = name.encode("idna").decode().lower() if ":" not in name else name.lower()
    if not host or "%" in host:
        raise InvalidInputError(f"Invalid webhook hostname '{name}'")
    return host


def _is_allowed(host: str, domains: Iterable[str]) -> bool:
    for domain in domains:
        if domain.startswith("*."):
            if host.endswith(domain[1:].lower()):
                return True
        elif host == domain.lower():
            return True
    return False


def _quoted(target: str) -> str:
    """Non-ASCII characters as a browser sends them; what is quoted already stays."""
    return "".join(
        character if character.isascii() else "".join(f"%{byte:02X}" for byte in character.encode())
        for character in target
    )


def objection(address: Address, rules: UrlRules) -> str | None:
    """Why an address must not be connected to; None if it may be."""
    if isinstance(address, IPv6Address):
        # A scope names an interface of this machine.
        if address.scope_id:
            return _BLOCKED
        for network, shift in _EMBEDDINGS:
            if address in network and int(address) > 1:
                inner = IPv4Address((int(address) >> shift) & 0xFFFFFFFF)
                return objection(inner, rules)
    if address in _METADATA_ADDRESSES:
        return _METADATA
    if address.is_loopback:
        return _LOOPBACK if rules.disable_loopback else None
    if any(address in network for network in _PRIVATE_NETWORKS):
        return _PRIVATE if rules.disable_private_ips else None
    # Link-local, "this network", multicast, reserved, for documentation …
    return None if address.is_global and not address.is_multicast else _BLOCKED


def checked(found: Iterable[str], rules: UrlRules) -> list[Address]:
    """
    The addresses of a name, if all of them may be connected to.

    Raises:
        InvalidInputError: One may not, or there is none.
    """
    addresses: list[Address] = []
    for text in found:
        try:
            address = ip_address(text)
        except ValueError:
            raise _blocked(_BLOCKED) from None
        reason = objection(address, rules)
        if reason is not None:
            raise _blocked(reason)
        addresses.append(address)
    if not addresses:
        raise _unresolved()
    return addresses


def _blocked(reason: str) -> InvalidInputError:
    return InvalidInputError(f"Webhook host blocked: {reason}")


def _unresolved() -> InvalidInputError:
    return InvalidInputError("Webhook host blocked: DNS resolution failed", code=UNRESOLVED)


class SystemNames:
    """Asks the system for names, in threads of its own: those that hang keep nobody else's waiting."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(RESOLVED_AT_ONCE, thread_name_prefix="names")

    async def __call__(self, host: str, port: int) -> list[str]:
        """
        The addresses of a name, which may be an address in any way of writing.

        Raises:
            InvalidInputError: There is none, or it is not told in time.
        """
        ask = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        try:
            async with asyncio.timeout(RESOLVE_SECONDS):
                found = await asyncio.get_running_loop().run_in_executor(self._threads, ask)
        except (OSError, UnicodeError, TimeoutError):
            raise _unresolved() from None
        return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Guard:
    """
    Keeps the rules for one server.

    Args:
        resolve: Who is asked for names; the system, unless given.
    """

    def __init__(self, rules: UrlRules, *, resolve: Resolve | None = None) -> None:
        self.rules = rules
        self._resolve = resolve or SystemNames()

    def parse(self, url: str) -> Target:
        """
        Take a URL apart; see `parse`.

        Raises:
            InvalidInputError: It is against the rules.
        """
        return parse(url, self.rules)

    async def check(self, url: str) -> None:
        """
        Refuse a URL that must not be sent to, as far as can be told now.

        Raises:
            InvalidInputError: It may not.
        """
        target = self.parse(url)
        await self.addresses(target.host, target.port)

    async def addresses(self, host: str, port: int) -> list[Address]:
        """
        What a name leads to now, all of it checked.

        Raises:
            InvalidInputError: Something of it must not be connected to, or there is none.
        """
        return checked(await self._resolve(host, port), self.rules)


class GuardedNetwork(AsyncNetworkBackend):
    """Opens connections for an HTTP client, to addresses that a guard has just checked."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._system = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the client's interface
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> AsyncNetworkStream:
        """
        Connect to the first address of the name that answers.

        Raises:
            InvalidInputError: One of them must not be connected to.
        """
        failure: Exception = httpcore2.ConnectError("no address")
        for address in (await self._guard.addresses(host, port))[:ADDRESSES_TRIED]:
            try:
                return await self._system.connect_tcp(
                    str(address), port, timeout, local_address, socket_options
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as exc:
                failure = exc
        raise failure

    async def sleep(self, seconds: float) -> None:
        """Pause, between two tries of the client's own."""
        await asyncio.sleep(seconds)
