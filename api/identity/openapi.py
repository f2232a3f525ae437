"""What the API's description says of authentication: `auth.openapi` of langgraph.json."""

from collections.abc import Mapping
from typing import Any

from store.models import JsonObject


def secure(schema: JsonObject, openapi: Mapping[str, Any]) -> None:
    """
    Add security to an OpenAPI description.

    Args:
        openapi: ``securitySchemes`` by name, ``security`` of every operation, and ``paths``: that of
            one, by path and method, in place of it.
    """
    if schemes := openapi.get("securitySchemes"):
        schema.setdefault("components", {}).setdefault("securitySchemes", {}).update(schemes)
    if security := openapi.get("security"):
        schema["security"] = security
    for path, methods in (openapi.get("paths") or {}).items():
        for method, security in methods.items():
            operation = schema["paths"].get(path, {}).get(method.lower())
            if operation is not None:
                operation["security"] = security
