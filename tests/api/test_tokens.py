"""Tokens: whose are believed, and by which keys."""

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpcore2
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from api.identity.issuer_keys import (
    FRESH_SECONDS,
    MAX_BYTES,
    PAUSE_SECONDS,
    STALE_SECONDS,
    SigningKeys,
    source_of,
)
from api.identity.keys import Found
from api.identity.tokens import MAX_CHARACTERS, Rules, Tokens
from store.errors import AuthenticationError, InvalidInputError, UnavailableError
from tests.api.issuers import AUDIENCE, RSA_KEY, Issuer, unsigned

NOW = int(time.time())
PEM = RSA_KEY.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
async def client() -> AsyncIterator[httpcore2.AsyncConnectionPool]:
    async with httpcore2.AsyncConnectionPool() as client:
        yield client


@pytest.fixture
def clock() -> Clock:
    return Clock()


def rules(issuer: Issuer, **more: Any) -> Rules:
    given: dict[str, Any] = {
        "issuer": issuer.url, "audiences": ("other", AUDIENCE), "algorithms": ("RS256",),
        "identity_claim": "sub", "roles_claim": None, "permissions_claim": None,
        "default_role": "user", "leeway_seconds": 30.0,
    }  # fmt: skip
    return Rules(**{**given, **more})


def tokens_of(
    issuer: Issuer,
    client: httpcore2.AsyncConnectionPool,
    clock: Clock,
    place: str | None = None,
    **more: Any,
) -> Tokens:
    told = rules(issuer, **more)
    source = source_of(client, issuer=issuer.url, place=place)
    return Tokens(told, SigningKeys(source, told.algorithms, clock=clock))


@pytest.fixture
def tokens(issuer: Issuer, client: httpcore2.AsyncConnectionPool, clock: Clock) -> Tokens:
    return tokens_of(issuer, client, clock)


async def test_a_token_says_who_calls_and_for_how_long_that_holds(
    tokens: Tokens, issuer: Issuer
) -> None:
    found = await tokens.authenticate(issuer.token("ada", name="Ada", aud=["x", AUDIENCE]))
    short = await tokens.authenticate(issuer.token("ada", exp=int(time.time()) + 5))

    assert (found.user.identity, found.user.display_name) == ("ada", "Ada")
    assert "threads:*" in found.user.permissions
    assert found.seconds == 60.0
    # No longer than with the difference that clocks may have.
    assert 30 < short.seconds <= 35


async def test_clocks_may_differ_a_little_and_no_more(tokens: Tokens, issuer: Issuer) -> None:
    now = int(time.time())
    near: list[dict[str, Any]] = [{"exp": now - 20}, {"nbf": now + 20}, {"iat": now + 20}]
    far: list[dict[str, Any]] = [{"exp": now - 40}, {"nbf": now + 60}, {"iat": now + 60}]
    for claims in near:
        assert (await tokens.authenticate(issuer.token("ada", **claims))).user.identity == "ada"
    for claims in far:
        with pytest.raises(AuthenticationError):
            await tokens.authenticate(issuer.token("ada", **claims))


REFUSED: dict[str, dict[str, Any]] = {
    "of another issuer": {"iss": "https://issuer.example"},
    "of one whose name begins alike": {"iss": "http://127.0.0.1"},
    "without an issuer": {"iss": None},
    "for somebody else": {"aud": "elsewhere"},
    "for nobody": {"aud": None},
    "without an end": {"exp": None},
    "with an end that is none": {"exp": "soon"},
    "with an end beyond numbers": {"exp": 10**400},
    "with an end that never comes": {"exp": float("inf")},
    "of nobody": {"sub": None},
    "of a number": {"sub": 5},
    "of an empty name": {"sub": ""},
    "of a name with a line break": {"sub": "ada\neve"},
    "of a name that is too long": {"sub": "a" * 256},
    "with a key that is unknown": {"key_id": "other"},
    "with a key that is no text": {"headers": {"kid": 5}},
    "by another key": {"key": rsa.generate_private_key(public_exponent=65537, key_size=2048)},
    "by another algorithm of the same key": {"algorithm": "PS256"},
    "by a curve": {"key": ec.generate_private_key(ec.SECP256R1()), "algorithm": "ES256"},
    "that wants what is not understood": {"headers": {"crit": ["x"], "x": 1}},
}


@pytest.mark.parametrize("claims", REFUSED.values(), ids=REFUSED)
async def test_a_token_is_refused(tokens: Tokens, issuer: Issuer, claims: dict[str, Any]) -> None:
    token = issuer.token("ada", **claims)
    with pytest.raises(AuthenticationError) as refused:
        await tokens.authenticate(token)
    assert refused.value.message == "The token is not valid"


async def test_what_a_token_says_of_its_algorithm_and_its_key_counts_for_nothing(
    tokens: Tokens, issuer: Issuer
) -> None:
    claims = issuer.claims("ada")
    own = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    header = {"kid": "first", "jwk": Issuer.described("first", own), "jku": f"{issuer.url}/mine"}
    # The public key as if it were a shared secret: the oldest of tricks.
    secret = jwt.encode(claims, "x" * 32, algorithm="HS256", headers={"kid": "first"})
    by_pem = secret.rpartition(".")[0]
    hmac = jwt.get_algorithm_by_name("HS256")
    signature = jwt.utils.base64url_encode(hmac.sign(by_pem.encode(), PEM)).decode()
    for token in (
        unsigned(claims, alg="none"), unsigned(claims, alg="None", kid="first"),
        unsigned(claims, kid="first"), unsigned(claims, alg="RS256", kid="first"),
        secret, f"{by_pem}.{signature}",
        jwt.encode(claims, own, algorithm="RS256", headers=header),
    ):  # fmt: skip
        with pytest.raises(AuthenticationError):
            await tokens.authenticate(token)


@pytest.mark.parametrize(
    "text",
    ["", ".", "..", "a.b.c", "e30.e30.", "ada", "é" * 50, "e30." * 1000, "x" * (MAX_CHARACTERS + 1),
     unsigned({}, alg=["RS256"]), unsigned({}, alg={"a": 1}), "[" * 9000 + ".a.b"],
)  # fmt: skip
async def test_what_is_no_token_is_refused(tokens: Tokens, text: str) -> None:
    with pytest.raises(AuthenticationError):
        await tokens.authenticate(text)


async def test_who_has_expired_is_told_so_only_if_the_signature_is_right(
    tokens: Tokens, issuer: Issuer
) -> None:
    token = issuer.token("ada", exp=NOW - 3600)
    with pytest.raises(AuthenticationError, match="expired"):
        await tokens.authenticate(token)
    with pytest.raises(AuthenticationError, match="not valid"):
        await tokens.authenticate(token[:-8] + "AAAAAAAA")


async def _roles(tokens: Tokens, token: str) -> tuple[list[str], list[str]]:
    found: Found = await tokens.authenticate(token)
    return found.user.roles, found.user.permissions


async def test_roles_and_permissions_come_from_the_claims_that_are_named(
    issuer: Issuer, client: httpcore2.AsyncConnectionPool, clock: Clock
) -> None:
    claims: dict[str, Any] = {
        "roles": ["admin"],
        "scope": "openid threads:read store:*",
        "deep": {"roles": "reader"},
    }
    token = issuer.token("ada", **claims)
    plain = tokens_of(issuer, client, clock)
    named = tokens_of(issuer, client, clock, roles_claim="roles")
    deep = tokens_of(issuer, client, clock, roles_claim="deep.roles")
    scoped = tokens_of(issuer, client, clock, permissions_claim="scope", default_role="")
    strict = tokens_of(issuer, client, clock, roles_claim="none.at.all", default_role="")

    assert (await _roles(plain, token))[0] == ["user"]
    assert await _roles(named, token) == (["admin"], ["*"])
    assert (await _roles(deep, token))[0] == ["reader"]
    assert await _roles(scoped, token) == ([], ["threads:read", "store:*"])
    assert await _roles(strict, token) == ([], [])
    assert (await _roles(named, issuer.token("ada", roles=["billing", 5, None])))[0] == ["user"]


async def test_new_keys_are_found_and_old_ones_forgotten(
    tokens: Tokens, issuer: Issuer, clock: Clock
) -> None:
    await tokens.authenticate(issuer.token("ada"))
    asked = issuer.asked
    second = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    issuer.keys = [Issuer.described("second", second)]
    token = issuer.token("ada", key=second, key_id="second")

    # Not as often as somebody sends tokens of keys that are not there.
    for _ in range(5):
        with pytest.raises(AuthenticationError):
            await tokens.authenticate(token)
    assert issuer.asked == asked
    clock.seconds += PAUSE_SECONDS
    assert (await tokens.authenticate(token)).user.identity == "ada"
    assert issuer.asked == asked + 2
    with pytest.raises(AuthenticationError):
        await tokens.authenticate(issuer.token("ada"))


async def test_a_key_that_was_withdrawn_is_not_believed_for_long(
    tokens: Tokens, issuer: Issuer, clock: Clock
) -> None:
    await tokens.authenticate(issuer.token("ada"))
    issuer.keys = [Issuer.described("second")]
    clock.seconds += FRESH_SECONDS + 1
    with pytest.raises(AuthenticationError):
        await tokens.authenticate(issuer.token("ada"))


async def test_an_issuer_that_is_away_takes_nobody_away_for_a_day(
    tokens: Tokens, issuer: Issuer, clock: Clock
) -> None:
    await tokens.authenticate(issuer.token("ada"))
    issuer.answers = {}
    clock.seconds += FRESH_SECONDS + 1
    assert (await tokens.authenticate(issuer.token("eve"))).user.identity == "eve"
    clock.seconds += STALE_SECONDS
    with pytest.raises(UnavailableError):
        await tokens.authenticate(issuer.token("ada"))


@pytest.mark.parametrize(
    "answers",
    [{}, {"issuer": "https://other.example", "jwks_uri": "x"}, {"keys": []}, {"keys": 5}, [1], "x",
     {"keys": "x" * MAX_BYTES}],
    ids=["503", "another", "none", "number", "list", "text", "large"],
)  # fmt: skip
async def test_what_is_no_key_set_lets_nobody_in(
    issuer: Issuer, client: httpcore2.AsyncConnectionPool, clock: Clock, answers: Any
) -> None:
    issuer.answers = answers
    for place in (None, f"{issuer.url}/keys"):
        with pytest.raises(UnavailableError):
            await tokens_of(issuer, client, clock, place).authenticate(issuer.token("ada"))


async def test_keys_that_verify_nothing_safely_are_left_out(
    tokens: Tokens, issuer: Issuer, clock: Clock
) -> None:
    short = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    secret = {"kty": "oct", "kid": "secret", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"}
    encrypting = {**Issuer.described("encrypting"), "use": "enc"}
    bad = {"kty": "RSA", "kid": "bad", "n": "!", "e": "AQAB"}
    issuer.keys = [secret, encrypting, bad, Issuer.described("short", short), *issuer.keys]
    assert (await tokens.authenticate(issuer.token("ada"))).user.identity == "ada"
    for token in (
        issuer.token("ada", key=short, key_id="short"), issuer.token("ada", key_id="encrypting"),
        issuer.token("ada", key="secretsecretsecretsecretsecretse", key_id="secret", algorithm="HS256"),
    ):  # fmt: skip
        with pytest.raises(AuthenticationError):
            await tokens.authenticate(token)


async def test_a_token_that_names_no_key_is_of_the_only_one(
    tokens: Tokens, issuer: Issuer, clock: Clock
) -> None:
    token = issuer.token("ada", key_id=None)
    assert (await tokens.authenticate(token)).user.identity == "ada"
    issuer.keys = [*issuer.keys, Issuer.described("second")]
    clock.seconds += FRESH_SECONDS + 1
    with pytest.raises(AuthenticationError):
        await tokens.authenticate(token)


async def test_other_algorithms_count_where_they_are_named(
    tmp_path: Path, issuer: Issuer, client: httpcore2.AsyncConnectionPool, clock: Clock
) -> None:
    curve = ec.generate_private_key(ec.SECP256R1())
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [Issuer.described("curve", curve, alg="ES256")]}))
    tokens = tokens_of(issuer, client, clock, str(file), algorithms=("ES256", "RS256"))
    signed = issuer.token("ada", key=curve, key_id="curve", algorithm="ES256")

    assert (await tokens.authenticate(signed)).user.identity == "ada"
    # It is bound to its own.
    with pytest.raises(AuthenticationError):
        await tokens.authenticate(issuer.token("ada", key_id="curve"))


@pytest.mark.parametrize(
    ("issuer_url", "place"),
    [("http://issuer.example", None), ("https://issuer.example", "http://issuer.example/keys"),
     ("https://issuer.example", "ftp://issuer.example/keys"), ("https://issuer.example", "no/such/file"),
     ("not a url", None)],
)  # fmt: skip
async def test_keys_that_others_could_change_on_the_way_are_refused_at_the_start(
    client: httpcore2.AsyncConnectionPool, issuer_url: str, place: str | None
) -> None:
    with pytest.raises(InvalidInputError, match="THREADWELL_JWT"):
        source_of(client, issuer=issuer_url, place=place)
