"""The application as the tests of `api` have it."""

from tests.api.conftest import client, http, run, services, settings, url

__all__ = ["client", "http", "run", "services", "settings", "url"]
