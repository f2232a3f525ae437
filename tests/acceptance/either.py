"""A client whose every request goes to one of several servers, at random."""

import random
from collections.abc import Sequence

import httpx
from langgraph_sdk.client import LangGraphClient


class EitherServer(httpx.AsyncBaseTransport):
    """
    Sends each request to one of the servers.

    Args:
        seed: So that a failure can be repeated.
    """

    def __init__(self, urls: Sequence[str], seed: int) -> None:
        self._ports = [httpx.URL(url).port for url in urls]
        self._random = random.Random(seed)
        self._transport = httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.url = request.url.copy_with(port=self._random.choice(self._ports))
        return await self._transport.handle_async_request(request)

    async def aclose(self) -> None:
        await self._transport.aclose()


def client_of_either(urls: Sequence[str], seed: int) -> LangGraphClient:
    """An SDK client that does not know which server answers."""
    transport = EitherServer(urls, seed)
    return LangGraphClient(httpx.AsyncClient(base_url=urls[0], transport=transport, timeout=30))
