"""
uvicorn's WebSockets, without what lets a client fill a process's memory.

Frames are not compressed: 16 KB may inflate to 16 MB, all that come at once are inflated on the event loop, before
anybody is asked who sends them. And a client that may say later who it is sends little until then.
"""

from typing import Any, Final

from starlette.types import Scope
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

#: Where a client may say in a frame who it is, and how long frames are until then.
LATE_PATH: Final = "/api/ws"
MAX_BYTES_OF_UNKNOWN: Final = 1024 * 1024

_ALLOW: Final = "threadwell.allow_large_frames"


class Sockets(WebSocketsSansIOProtocol):
    """One connection."""

    def handle_connect(self, event: Request) -> None:
        """Begin with a handshake."""
        super().handle_connect(event)
        # Which application this path is in, `api.middleware.BodyLimit` knows.
        if not self.handshake_complete and self.scope["path"].endswith(LATE_PATH):
            most, self.conn.max_message_size = self.conn.max_message_size, MAX_BYTES_OF_UNKNOWN

            def allow() -> None:
                self.conn.max_message_size = most

            self.scope["state"][_ALLOW] = allow


#: What uvicorn is to be configured with.
OPTIONS: Final[dict[str, Any]] = {"ws": Sockets, "ws_per_message_deflate": False}


def allow_large_frames(scope: Scope) -> None:
    """Let a client send as long frames as any: it is known, or its route asks who it is before it is accepted."""
    if allow := scope.get("state", {}).get(_ALLOW):
        allow()
