"""
Users of Open WebUI, as it forwards them: a short token of its own beside the key that it has here.

It is signed with a secret that both know (HS256), so that nobody else who can write a header becomes
somebody. It says for whom a request is; that whoever sends it may act for others is asked as ever.
"""

from typing import Final

import jwt
from starlette.requests import HTTPConnection

from api.identity.permissions import is_identity
from store.errors import AuthenticationError

#: Where it stands; what it is signed with, and by whom.
USER_JWT: Final = "x-openwebui-user-jwt"
_ALGORITHMS: Final = ["HS256"]
_ISSUER: Final = "open-webui"
#: Of the longest one that is looked at.
MAX_CHARACTERS: Final = 4096

_INVALID: Final = "The token of the forwarded user is not valid"


class ForwardedUsers:
    """
    Finds out whom a request is for by the token that Open WebUI sends with it.

    Args:
        secret: `FORWARD_USER_INFO_HEADER_JWT_SECRET` of Open WebUI; None takes no notice of tokens.
        leeway_seconds: By how much its clock may differ.
    """

    def __init__(self, secret: str | None, *, leeway_seconds: float) -> None:
        self._secret = secret
        self._leeway_seconds = leeway_seconds
        self._reader = jwt.PyJWT(options={"enforce_minimum_key_length": True})

    def said(self, connection: HTTPConnection) -> str | None:
        """The token that a request has; None if it has none, or nobody reads it."""
        return connection.headers.get(USER_JWT) if self._secret else None

    def identity(self, token: str, *, may_be_over: bool = False) -> str:
        """
        Whom a token is about.

        Args:
            may_be_over: It was taken when what it came with began.

        Raises:
            AuthenticationError: It is not signed with the secret, of somebody else's making, too old,
                or about nobody.
        """
        if len(token) > MAX_CHARACTERS:
            raise AuthenticationError(_INVALID)
        try:
            claims = self._reader.decode(
                token,
                self._secret or "",
                algorithms=_ALGORITHMS,
                issuer=_ISSUER,
                leeway=self._leeway_seconds,
                options={
                    "require": ["exp", "iat", "iss", "sub"],
                    "verify_exp": not may_be_over,
                },
            )
        except jwt.ExpiredSignatureError:
            # Its signature was right.
            raise AuthenticationError("The token of the forwarded user has expired") from None
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
            raise AuthenticationError(_INVALID) from None
        identity: str = claims["sub"]
        if not is_identity(identity):
            raise AuthenticationError(_INVALID)
        return identity
