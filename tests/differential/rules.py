"""What differs everywhere and on purpose: it is taken out of both servers' answers."""

from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from tests.differential.talk import Exchange


@dataclass(frozen=True)
class Rule:
    """A difference that no case tells again; its words go into docs/compatibility.md."""

    reference: str
    here: str
    why: str
    apply: Callable[[Exchange], Exchange]


def _words_of_errors(exchange: Exchange) -> Exchange:
    body = exchange.get("body")
    failed = exchange.get("status", 0) >= HTTPStatus.BAD_REQUEST
    if failed and isinstance(body, dict) and isinstance(body.get("detail"), str):
        return {**exchange, "body": {"detail": "<words>"}}
    return exchange


RULES = (
    Rule(
        'an error is `{"detail"}`',
        'an error is `{"detail", "code"}`, its words our own',
        "words are for people; programs go by the status and the code",
        _words_of_errors,
    ),
)


def without_rules(exchanges: list[Exchange]) -> list[Any]:
    """The exchanges without what differs everywhere."""
    for rule in RULES:
        exchanges = [rule.apply(exchange) for exchange in exchanges]
    return exchanges
