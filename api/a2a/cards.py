"""The cards of agents, for both generations of the protocol."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from store.models import Assistant, JsonObject

#: Header by which a caller says how much of a conversation is a task's history.
HISTORY_SCOPE: Final = "LangGraph-A2A-History-Scope"
_MODES: Final = ["application/json", "text/plain"]
#: How 1.0 names the kinds of OpenAPI's security schemes.
_SCHEMES: Final = {
    "apiKey": "apiKeySecurityScheme",
    "http": "httpAuthSecurityScheme",
    "mutualTLS": "mtlsSecurityScheme",
    "oauth2": "oauth2SecurityScheme",
    "openIdConnect": "openIdConnectSecurityScheme",
}


def _security(openapi: Mapping[str, Any]) -> JsonObject:
    """How to say who one is: as OpenAPI and 0.3 have it, and beside that as 1.0 has it."""
    schemes: Mapping[str, JsonObject] = openapi.get("securitySchemes") or {}
    required: Sequence[JsonObject] = openapi.get("security") or []
    if not schemes:
        return {}
    return {
        "securitySchemes": {name: {**it, **_modern_scheme(it)} for name, it in schemes.items()},
        "security": list(required),
        "securityRequirements": [
            {"schemes": {name: {"list": scopes} for name, scopes in one.items()}}
            for one in required
        ],
    }


def _modern_scheme(scheme: JsonObject) -> JsonObject:
    kind = _SCHEMES.get(str(scheme.get("type")))
    said = {"location" if name == "in" else name: value for name, value in scheme.items()}
    said.pop("type", None)
    return {kind: said} if kind else {}


def card(
    assistant: Assistant,
    url: str,
    version: str,
    fields: Mapping[str, Any],
    openapi: Mapping[str, Any],
) -> JsonObject:
    """
    The card of an agent, for both generations.

    Args:
        fields: The graph's input schema.
        openapi: ``securitySchemes`` and ``security``, if it matters who is calling.
    """
    about = assistant.description or f"{assistant.name} assistant"
    names = list(fields.get("properties", {}))
    schema = {
        "required": list(fields.get("required", [])),
        "properties": names,
        "supportsA2A": "messages" in names,
    }
    return {
        "name": assistant.name,
        "description": about,
        "url": url,
        "preferredTransport": "JSONRPC",
        "protocolVersion": "0.3.0",
        "supportedInterfaces": [
            {"url": url, "protocolBinding": "JSONRPC", "protocolVersion": "1.0"},
            {"url": url, "protocolBinding": "JSONRPC", "protocolVersion": "0.3"},
        ],
        "capabilities": {
            "streaming": True,
            "pushNotifications": False,
            "stateTransitionHistory": False,
            "extensions": [
                {
                    "uri": "https://langchain.com/a2a/extensions/history-scope/v1",
                    "description": "Choose task-only or full-context response history",
                    "required": False,
                    "params": {
                        "header": HISTORY_SCOPE,
                        "values": ["context", "task"],
                        "default": "context",
                        "methods": ["SendMessage", "GetTask", "ListTasks"],
                    },
                }
            ],
        },
        "defaultInputModes": _MODES,
        "defaultOutputModes": _MODES,
        "skills": [
            {
                "id": f"{assistant.assistant_id}-main",
                "name": f"{assistant.name} Capabilities",
                "description": about,
                "tags": ["assistant", "langgraph"],
                "examples": [],
                "inputModes": _MODES,
                "outputModes": _MODES,
                "metadata": {"inputSchema": schema},
            }
        ],
        "version": version,
        **_security(openapi),
    }
