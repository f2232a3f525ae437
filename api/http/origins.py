"""What a `Host` and an `Origin` name: this machine, a front end that everybody knows, or somebody else's page."""

import re
from ipaddress import ip_address
from typing import Final

#: `Host`, or an origin after its scheme, in lower case: a name or an address, and perhaps a port.
_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?")
#: LangGraph Studio is served from this host, and from hosts of regions below it.
STUDIO: Final = "smith.langchain.com"
#: The hosted agent-chat-ui and Agent Inbox.
FRONT_ENDS: Final = frozenset({STUDIO, "agentchat.vercel.app", "dev.agentinbox.ai"})


def host_of(authority: str) -> str | None:
    """The name or address of a `Host`, without port and brackets; None if it is no such thing."""
    found = _AUTHORITY.fullmatch(authority.lower())
    return found[1].strip("[]") if found else None


def is_address(host: str) -> bool:
    """Whether a host is an address of IP, and no name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback_host(host: str) -> bool:
    """Whether who listens on an address is reached from this machine alone."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def is_of_this_machine(host: str) -> bool:
    """Whether a browser finds a host on its own machine, whatever a name server says of it."""
    return host.endswith(".localhost") or is_loopback_host(host)


def is_default_origin(origin: str) -> bool:
    """Whether a page may call a server on its machine that says nothing of origins."""
    scheme, _, authority = origin.partition("://")
    host = host_of(authority)
    if host is None:
        return False
    if scheme == "https" and (host in FRONT_ENDS or host.endswith(f".{STUDIO}")):
        return True
    return scheme in ("http", "https") and is_of_this_machine(host)
