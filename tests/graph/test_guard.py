"""What a stranger's URL must not lead to, however it is written."""

import asyncio
from collections.abc import Awaitable, Callable

import httpcore2
import pytest

from graph.guard import (
    Guard,
    GuardedNetwork,
    SystemNames,
    UrlRules,
    checked,
    own_path,
    parse,
)
from store.errors import InvalidInputError

OPEN = UrlRules(disable_loopback=False)
BLOCKED = "Webhook host blocked: "
#: The beginning of the reason of each; it is asked for names of this machine only.
ATTACKS = {
    "http://127.0.0.1/": BLOCKED + "loopback IP range",
    "http://127.8.9.10:8080/admin": BLOCKED + "loopback IP range",
    "http://2130706433/": BLOCKED + "loopback IP range",
    "http://0x7f000001/": BLOCKED + "loopback IP range",
    "http://0177.0.0.1/": BLOCKED + "loopback IP range",
    "http://127.1/": BLOCKED + "loopback IP range",
    "http://[::1]/": BLOCKED + "loopback IP range",
    "http://[::ffff:127.0.0.1]/": BLOCKED + "loopback IP range",
    "http://[::ffff:7f00:1]/": BLOCKED + "loopback IP range",
    "http://[::127.0.0.1]/": BLOCKED + "loopback IP range",
    "http://[64:ff9b::7f00:1]/": BLOCKED + "loopback IP range",
    "http://[2002:7f00:1::]/": BLOCKED + "loopback IP range",
    "http://localhost/": BLOCKED + "localhost address",
    "http://LOCALHOST./": BLOCKED + "localhost address",
    "http://a.localhost:9/": BLOCKED + "localhost address",
    "http://0.0.0.0/": BLOCKED + "blocked IP range",
    "http://0/": BLOCKED + "blocked IP range",
    "http://[::]/": BLOCKED + "blocked IP range",
    "http://169.254.169.254/latest/meta-data": BLOCKED + "blocked IP range",
    "http://2852039166/": BLOCKED + "blocked IP range",
    "http://0xa9fea9fe/": BLOCKED + "blocked IP range",
    "http://[::ffff:169.254.169.254]/": BLOCKED + "blocked IP range",
    "http://[::ffff:0:169.254.169.254]/": BLOCKED + "blocked IP range",
    "http://[64:ff9b::169.254.169.254]/": BLOCKED + "blocked IP range",
    "http://[64:ff9b:1::a9fe:a9fe]/": BLOCKED + "blocked IP range",
    "http://[fe80::1]/": BLOCKED + "blocked IP range",
    "http://[fd00:ec2::254]/": BLOCKED + "cloud metadata endpoint",
    "http://100.100.100.200/": BLOCKED + "cloud metadata endpoint",
    "http://168.63.129.16/": BLOCKED + "cloud metadata endpoint",
    "http://192.0.0.192/": BLOCKED + "cloud metadata endpoint",
    "http://224.0.0.1/": BLOCKED + "blocked IP range",
    "http://[ff02::1]/": BLOCKED + "blocked IP range",
    "http://240.0.0.1/": BLOCKED + "blocked IP range",
    "http://255.255.255.255/": BLOCKED + "blocked IP range",
    "http://198.18.0.1/": BLOCKED + "blocked IP range",
    "http://[2001::1]/": BLOCKED + "blocked IP range",
    "ftp://127.0.0.1/": BLOCKED + "scheme 'ftp' not allowed",
    "file:///etc/passwd": BLOCKED + "scheme 'file' not allowed",
    "gopher://127.0.0.1:6379/_": BLOCKED + "scheme 'gopher' not allowed",
    "javascript:alert(1)": BLOCKED + "scheme 'javascript' not allowed",
    "//127.0.0.1/": BLOCKED + "scheme '' not allowed",
    "/internal": "Loopback webhooks",
    "": "Loopback webhooks",
    "http://": "Invalid webhook hostname ''",
    "http:///etc": "Invalid webhook hostname ''",
    "http://[fe80::1%25eth0]/": "Invalid webhook hostname",
    "http://user:secret@10.0.0.1/": "Webhook URL must not hold a user name",
    "http://10.0.0.1#@127.0.0.1/\\": "Webhook URL has a character",
    "http://10.0.0.1\\@127.0.0.1/": "Webhook URL has a character",
    "http://10.0.0.1/\r\nX-Evil: 1": "Webhook URL has a character",
    "http://10.0.0.1 /": "Webhook URL has a character",
    "http://10.0.0.1:99999/": "Invalid webhook URL",
    "http://10.0.0.1:0/": "Invalid webhook URL",
    "http://10.0.0.1:x/": "Invalid webhook URL",
    "http://[::1/": "Invalid webhook URL",
    "http://" + "a" * 3000: "Webhook URL too long",
    "http://" + "a" * 300 + "/": "Invalid webhook hostname",
}


@pytest.mark.parametrize("url", ATTACKS)
async def test_a_url_that_leads_inside_is_refused(url: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        await Guard(UrlRules()).check(url)

    assert refused.value.message.startswith(ATTACKS[url])
    assert "secret" not in refused.value.message


@pytest.mark.parametrize(
    "url", ["http://10.0.0.1/", "https://8.8.8.8:8443/x?y=1", "http://192.168.1.1"]
)
async def test_a_url_that_leads_elsewhere_is_taken_a_private_network_too(url: str) -> None:
    await Guard(UrlRules()).check(url)


@pytest.mark.parametrize("url", ["http://10.1.2.3/", "http://[fc00::1]/", "http://100.64.0.1/"])
async def test_a_private_network_is_refused_if_that_is_wanted(url: str) -> None:
    with pytest.raises(InvalidInputError, match="private IP range"):
        await Guard(UrlRules(disable_private_ips=True)).check(url)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/", "http://[::1]/", "http://localhost/"])
async def test_this_machine_is_reached_if_that_is_wanted(url: str) -> None:
    await Guard(OPEN).check(url)


@pytest.mark.parametrize("url", ["http://169.254.169.254/", "http://0.0.0.0/", "http://[fe80::1]/"])
async def test_what_is_never_a_receiver_is_refused_even_then(url: str) -> None:
    with pytest.raises(InvalidInputError, match="blocked IP range"):
        await Guard(OPEN).check(url)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://one.dev/", "Webhook must use https"),
        ("https://example.com/", "Webhook domain not allowed"),
        ("https://aexample.com/", "Webhook domain not allowed"),
        ("https://one.dev.evil.com/", "Webhook domain not allowed"),
        ("https://one.dev:444/", "Webhook port 444 not allowed"),
        ("https://a.example.com:80/", "Webhook port 80 not allowed"),
        ("https://one.dev/" + "x" * 60, "Webhook URL too long"),
    ],
)
def test_a_url_against_the_rules_is_refused(url: str, reason: str) -> None:
    rules = UrlRules(
        require_https=True,
        allowed_domains=("*.Example.com", "one.dev"),
        allowed_ports=(443,),
        max_url_length=60,
    )

    assert parse("https://A.example.COM./x", rules).authority == "a.example.com"
    assert parse("https://one.dev", rules).port == 443
    with pytest.raises(InvalidInputError) as refused:
        parse(url, rules)
    assert refused.value.message == reason


def test_a_url_is_taken_apart_as_it_goes_to_the_wire() -> None:
    target = parse("HTTPS://Bücher.example:8443/weiß/%20?q=ä#fragment", UrlRules())

    assert target.authority == "xn--bcher-kva.example:8443"
    assert target.path == "/wei%C3%9F/%20?q=%C3%A4"


def test_one_address_among_several_is_enough_to_refuse_a_name() -> None:
    with pytest.raises(InvalidInputError, match="loopback"):
        checked(["8.8.8.8", "127.0.0.1"], UrlRules())


async def test_a_name_that_leads_nowhere_is_refused() -> None:
    with pytest.raises(InvalidInputError) as refused:
        await SystemNames()("no-such-host.invalid", 80)

    assert refused.value.message == "Webhook host blocked: DNS resolution failed"


async def test_a_relative_url_is_nothing_to_connect_to() -> None:
    with pytest.raises(InvalidInputError, match="give a whole URL"):
        await Guard(OPEN).check("/hooks")


def test_a_relative_url_is_a_path_of_this_server_if_loopback_is_allowed() -> None:
    assert own_path("/hooks/钩?a=1", OPEN) == "/hooks/%E9%92%A9?a=1"
    assert own_path("https://example.com/x", OPEN) is None
    with pytest.raises(InvalidInputError, match="disable_loopback"):
        own_path("/hooks", UrlRules())
    for url in ("hooks", "?a=1", "/hooks#there", "", "/a b", "\\\\host\\x", "/" + "x" * 2048):
        with pytest.raises(InvalidInputError):
            own_path(url, OPEN)
    # Another host, whatever it looks like.
    assert own_path("//example.com/x", OPEN) is None


def answers(*found: str) -> tuple[list[str], Callable[[str, int], Awaitable[list[str]]]]:
    """A resolver that gives another answer each time, and the answers that are left."""
    left = list(found)

    async def resolve(host: str, port: int) -> list[str]:
        return [left.pop(0)]

    return left, resolve


async def test_a_name_that_leads_inside_by_the_time_of_connecting_is_not_connected_to() -> None:
    connected = asyncio.Event()
    server = await asyncio.start_server(lambda *_: connected.set(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    left, resolve = answers("8.8.8.8", "127.0.0.1")
    guard = Guard(UrlRules(), resolve=resolve)
    async with server, httpcore2.AsyncConnectionPool(network_backend=GuardedNetwork(guard)) as http:
        await guard.check(f"http://rebind.example:{port}/")
        with pytest.raises(InvalidInputError, match="loopback IP range"):
            await http.request("POST", f"http://rebind.example:{port}/")

    assert left == []
    assert not connected.is_set()


async def test_the_address_that_was_checked_is_the_one_that_is_connected_to() -> None:
    heard: list[bytes] = []

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(hear, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    # Asked once: a second answer would be another place.
    left, resolve = answers("127.0.0.1", "8.8.8.8")
    backend = GuardedNetwork(Guard(OPEN, resolve=resolve))
    async with server, httpcore2.AsyncConnectionPool(network_backend=backend) as http:
        response = await http.request("POST", f"http://hook.example:{port}/x")

    assert response.status == 204
    assert left == ["8.8.8.8"]
    assert f"host: hook.example:{port}".encode() in heard[0].lower()
