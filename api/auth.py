"""Who is calling, and what they may do."""

from dataclasses import dataclass
from typing import Literal

from store.access import EVERYTHING, Access
from store.models import JsonObject

Resource = Literal["assistants", "threads", "crons", "store"]
Action = Literal[
    "create", "create_run", "read", "update", "delete", "search", "put", "get", "list_namespaces"
]


@dataclass(frozen=True, kw_only=True)
class Caller:
    """
    Who sent a request.

    Args:
        request_id: The request's id.
        user: As ``langgraph_auth_user`` has it, ``identity`` and all; None without authentication.
        permissions: What the user was granted.
    """

    request_id: str
    user: JsonObject | None = None
    permissions: tuple[str, ...] = ()

    @property
    def injected(self) -> JsonObject:
        """What the server adds to a run's configurable."""
        return {
            "langgraph_auth_user": self.user,
            "langgraph_auth_user_id": self.user["identity"] if self.user else "",
            "langgraph_auth_permissions": list(self.permissions),
            "langgraph_request_id": self.request_id,
        }

    async def may(self, resource: Resource, action: Action, value: JsonObject) -> Access:
        """
        Ask whether the caller may do something, before it is done or anything is read for it.

        Args:
            value: What is to be done. It may be changed: use what it holds afterwards.

        Returns:
            On which rows.

        Raises:
            PermissionDeniedError: On none at all.
        """
        return EVERYTHING
