"""What tokens cost: a table of the operator's, by model."""

import fnmatch
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final

import orjson

from store.errors import InvalidInputError

#: Prices are of so many tokens.
PER_TOKENS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Price:
    """Of a model, each for a million tokens."""

    input: Decimal
    output: Decimal
    #: Of input that the model's server had kept.
    cached_input: Decimal

    def of(self, *, input_tokens: int, cached_tokens: int, output_tokens: int) -> Decimal:
        """What tokens cost; `input_tokens` has the cached ones in it."""
        cached = min(cached_tokens, input_tokens)
        paid = self.input * (input_tokens - cached) + self.cached_input * cached
        return (paid + self.output * output_tokens) / PER_TOKENS


@dataclass(frozen=True, slots=True)
class Prices:
    """The table; without one nothing has a price."""

    currency: str | None = None
    #: By the name of a model or a pattern with ``*``; the first that fits counts.
    models: tuple[tuple[str, Price], ...] = field(default=())

    def find(self, model: str | None) -> Price | None:
        """The price of a model, if it has one."""
        if model is None:
            return None
        fitting = (price for name, price in self.models if fnmatch.fnmatchcase(model, name))
        return next(fitting, None)


def load(path: Path | None) -> Prices:
    """
    Read the table.

    Raises:
        InvalidInputError: The file is not there, or not what it should be.
    """
    if path is None:
        return Prices()
    try:
        raw = orjson.loads(path.read_bytes())
    except OSError as error:
        raise InvalidInputError(f"THREADWELL_PRICES: {path}: {error.strerror}") from error
    except orjson.JSONDecodeError as error:
        raise InvalidInputError(f"THREADWELL_PRICES: {path}: not JSON: {error}") from error
    if not isinstance(raw, dict) or raw.keys() - {"currency", "models"}:
        raise InvalidInputError(f"THREADWELL_PRICES: {path}: wants `currency` and `models` alone")
    currency, models = raw.get("currency"), raw.get("models")
    if not isinstance(currency, str) or not currency or not isinstance(models, dict):
        raise InvalidInputError(
            f"THREADWELL_PRICES: {path}: `currency` must be a string and `models` an object"
        )
    return Prices(currency, tuple((name, _price(path, name, of)) for name, of in models.items()))


def _price(path: Path, name: str, of: Any) -> Price:
    known = {"input", "output", "cached_input"}
    if not isinstance(of, dict) or of.keys() - known or not {"input", "output"} <= of.keys():
        raise InvalidInputError(
            f"THREADWELL_PRICES: {path}: model {name!r} wants `input` and `output`, for a million "
            "tokens, and may have `cached_input`"
        )
    amounts = {key: _amount(path, f"{name}.{key}", value) for key, value in of.items()}
    return Price(**{"cached_input": amounts["input"], **amounts})


def _amount(path: Path, place: str, value: Any) -> Decimal:
    try:
        amount = None if isinstance(value, bool) else Decimal(str(value))
    except InvalidOperation:
        amount = None
    if amount is None or not amount.is_finite() or amount < 0:
        raise InvalidInputError(
            f"THREADWELL_PRICES: {path}: `{place}` must be a number, not below 0"
        )
    return amount
