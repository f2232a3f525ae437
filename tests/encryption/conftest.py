"""The application behind a live uvicorn, as the tests of the API have it."""

from tests.api.conftest import client, http, services, url

__all__ = ["client", "http", "services", "url"]
