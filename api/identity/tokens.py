"""
Tokens (JWT) of an issuer that one trusts, such as an OpenID Connect provider's.

Which algorithms count is said here and never by a token; whose it is, for whom and until when must
be in it.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import jwt

from api.identity.issuer_keys import SigningKeys
from api.identity.keys import Credential, Found
from api.identity.permissions import ROLES, granted, is_identity, is_permission
from graph.user import User
from store.errors import AuthenticationError

#: Of the longest token that is looked at.
MAX_CHARACTERS: Final = 16 * 1024
#: Roles and permissions that are taken from a token.
MAX_GRANTED: Final = 200
#: How long a token is believed before it is looked at again: its key may be withdrawn.
KNOWN_SECONDS: Final = 60.0

_INVALID: Final = "The token is not valid"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """
    What a token must be, and where in it is what counts.

    Args:
        audiences: It is for one of these.
        identity_claim: Who calls.
        roles_claim: A path, by dots, to a list or a text; None: tokens have no roles.
        permissions_claim: The same, of permissions.
        default_role: Of who has no role and no permission that means something here; empty for none.
        leeway_seconds: By how much clocks may differ.
    """

    issuer: str
    audiences: tuple[str, ...]
    algorithms: tuple[str, ...]
    identity_claim: str
    roles_claim: str | None
    permissions_claim: str | None
    default_role: str
    leeway_seconds: float


class Tokens:
    """Finds out whose a token is."""

    def __init__(self, rules: Rules, keys: SigningKeys) -> None:
        self._rules = rules
        self._keys = keys
        self._reader = jwt.PyJWT(options={"enforce_minimum_key_length": True})

    async def authenticate(self, text: str) -> Found:
        """
        Whose a token is.

        Raises:
            AuthenticationError: Nobody's, not for this server, or not any more.
            UnavailableError: What it is signed with is not known, and not to be had.
        """
        if len(text) > MAX_CHARACTERS:
            raise AuthenticationError(_INVALID)
        key = await self._key(text)
        rules = self._rules
        try:
            claims = self._reader.decode(
                text,
                key,
                algorithms=rules.algorithms,
                audience=rules.audiences,
                issuer=rules.issuer,
                leeway=rules.leeway_seconds,
                options={"require": ["iss", "aud", "exp"]},
            )
            left = float(claims["exp"]) + rules.leeway_seconds - time.time()
        except jwt.ExpiredSignatureError:
            # Its signature was right.
            raise AuthenticationError("The token has expired") from None
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
            raise AuthenticationError(_INVALID) from None
        return Found(self._user(claims), min(left, KNOWN_SECONDS))

    async def _key(self, text: str) -> jwt.PyJWK:
        try:
            header = jwt.get_unverified_header(text)
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            raise AuthenticationError(_INVALID) from None
        key_id, algorithm = header.get("kid"), header.get("alg")
        # Before anybody is asked for a key.
        if algorithm not in self._rules.algorithms:
            raise AuthenticationError(_INVALID)
        if key_id is not None and not (isinstance(key_id, str) and len(key_id) <= 255):
            raise AuthenticationError(_INVALID)
        return await self._keys.get(key_id, algorithm)

    def _user(self, claims: dict[str, Any]) -> User:
        rules = self._rules
        identity = _claim(claims, rules.identity_claim)
        if not is_identity(identity):
            raise AuthenticationError(_INVALID)
        roles = [one for one in _texts(claims, rules.roles_claim) if one in ROLES]
        asked = [one for one in _texts(claims, rules.permissions_claim) if is_permission(one)]
        if not roles and not asked and rules.default_role:
            roles = [rules.default_role]
        name = next((one for key in ("name", "email") if is_identity(one := claims.get(key))), None)
        permissions = granted(roles, asked)
        fields = {
            "identity": identity,
            "display_name": name or identity,
            "is_authenticated": True,
            "permissions": permissions,
            "roles": roles,
        }
        return User(fields, Credential("token", tuple(permissions)))


def _claim(claims: dict[str, Any], path: str) -> Any:
    """What a claim holds: by its whole name, or else by a path of names."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for name in path.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _texts(claims: dict[str, Any], path: str | None) -> Sequence[str]:
    found = _claim(claims, path) if path else None
    # As `scope` is written.
    listed = found.split() if isinstance(found, str) else found
    if not isinstance(listed, list):
        return ()
    return [one for one in listed[:MAX_GRANTED] if isinstance(one, str)]
