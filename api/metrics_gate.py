"""Who may read the metrics: they tell of everybody's work, and of nobody's in particular."""

import hmac

from starlette.datastructures import Headers
from starlette.types import Scope

from api.identity.auth import METRICS_PATH, Caller
from api.settings import Settings
from store.errors import PermissionDeniedError

#: What a caller must have among their permissions, where callers are known.
PERMISSION = "metrics:read"


class MetricsGate:
    """
    Lets those to the metrics who need not be anybody.

    Args:
        is_public: That is everybody.
        token: Or whoever has this; None for nobody.
    """

    def __init__(self, *, is_public: bool, token: str | None) -> None:
        self._is_public = is_public
        self._sent = None if token is None else f"Bearer {token}".encode()

    @property
    def has_token(self) -> bool:
        """Whether there is a token to send."""
        return self._sent is not None

    @classmethod
    def of(cls, settings: Settings) -> "MetricsGate":
        """As the settings say."""
        token = settings.metrics_token
        return cls(
            is_public=settings.metrics_public, token=token.get_secret_value() if token else None
        )

    def lets_in(self, scope: Scope) -> bool:
        """Whether a request is for the metrics, and nobody has to be asked who sends it."""
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if scope["type"] != "http" or path != METRICS_PATH:
            return False
        if self._is_public:
            return True
        sent = Headers(scope=scope).get("authorization", "").encode("latin-1")
        return self._sent is not None and hmac.compare_digest(sent, self._sent)


def require(caller: Caller | None) -> None:
    """
    See that a caller may read the metrics.

    Args:
        caller: None for who was let in without being asked.

    Raises:
        PermissionDeniedError: They are known, and have no such permission.
    """
    if caller is not None and not caller.has(PERMISSION):
        raise PermissionDeniedError(f"Reading the metrics needs the permission {PERMISSION!r}")
