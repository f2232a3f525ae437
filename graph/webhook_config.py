"""`webhooks` of langgraph.json: which URLs runs may name, and what is sent to them beside the run."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

from graph.guard import UrlRules
from store.errors import InvalidInputError

#: The variables that headers may be made of begin with this.
ENV_PREFIX: Final = "LG_WEBHOOK_"

_TEMPLATE: Final = re.compile(r"\$\{\{(.*?)\}\}")
_VARIABLE: Final = re.compile(r"env\.([A-Za-z_][A-Za-z0-9_]*)")
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
#: Ours to say.
_RESERVED: Final = frozenset({"host", "content-length", "transfer-encoding", "connection"})
_KEYS: Final = frozenset({"env_prefix", "url", "headers", "allowed_fields"})
#: The rules that are numbers: all others that are no lists are true or false.
_NUMBERS: Final = frozenset({"max_url_length"})


@dataclass(frozen=True, kw_only=True, slots=True)
class WebhookConfig:
    """The section, checked. Headers are templates still: what they name is read at the start."""

    rules: UrlRules = field(default_factory=UrlRules)
    env_prefix: str = ENV_PREFIX
    headers: Mapping[str, str] = field(default_factory=dict)
    #: Keys of the payload that are sent; None for all.
    allowed_fields: frozenset[str] | None = None
    #: `http.disable_webhooks`: runs may name one, and nothing is sent.
    is_disabled: bool = False

    def for_registered(self, *, callers_are_known: bool) -> "WebhookConfig":
        """
        What holds for the webhooks that users register: into private networks they lead only where
        langgraph.json says so, or where nobody is asked who they are.
        """
        if self.rules.disable_private_ips is not None:
            return self
        return replace(self, rules=replace(self.rules, disable_private_ips=callers_are_known))

    def resolved_headers(self, environment: Mapping[str, str]) -> dict[str, str]:
        """
        The headers with the variables that they name.

        Raises:
            InvalidInputError: One is not set, or holds what no header can. It is not repeated.
        """
        return {
            name: self._resolved(name, template, environment)
            for name, template in self.headers.items()
        }

    def _resolved(self, name: str, template: str, environment: Mapping[str, str]) -> str:
        def value(match: re.Match[str]) -> str:
            variable = match[1].strip().removeprefix("env.")
            if variable not in environment:
                raise InvalidInputError(
                    f"`webhooks.headers.{name}` names {variable}, which is not set"
                )
            return environment[variable]

        text = _TEMPLATE.sub(value, template)
        if not text.isprintable() or not text.isascii():
            raise InvalidInputError(
                f"`webhooks.headers.{name}` has a character that a header cannot have"
            )
        return text


def read_webhooks(webhooks: Any, *, is_disabled: bool = False) -> WebhookConfig:
    """
    Check the section.

    Raises:
        InvalidInputError: It is not what it should be, or has a key that is not known: a rule
            that was mistyped would be no rule.
    """
    section = _object({} if webhooks is None else webhooks, "webhooks", _KEYS)
    prefix = section.get("env_prefix", ENV_PREFIX)
    if not isinstance(prefix, str) or not prefix:
        raise InvalidInputError("`webhooks.env_prefix` must be a string that is not empty")
    allowed = section.get("allowed_fields")
    return WebhookConfig(
        rules=_rules(section.get("url")),
        env_prefix=prefix,
        headers=_headers(section.get("headers"), prefix),
        allowed_fields=None if allowed is None else frozenset(_texts(allowed, "allowed_fields")),
        is_disabled=is_disabled,
    )


def _rules(url: Any) -> UrlRules:
    if url is None:
        return UrlRules()
    section = _object(url, "webhooks.url", frozenset(rule.name for rule in fields(UrlRules)))
    # Whoever makes rules means this one too, as on the reference.
    rules: dict[str, Any] = {"require_https": True}
    for name, value in section.items():
        if value is None:
            continue
        if name == "allowed_domains":
            rules[name] = tuple(_texts(value, f"url.{name}"))
        elif name == "allowed_ports":
            rules[name] = tuple(_ports(value))
        elif isinstance(value, bool) is (name not in _NUMBERS) and isinstance(value, int):
            rules[name] = value
        else:
            raise InvalidInputError(f"`webhooks.url.{name}` has the wrong type")
    return UrlRules(**rules)


def _ports(value: Any) -> list[int]:
    if not isinstance(value, list) or not all(
        isinstance(port, int) and not isinstance(port, bool) and 0 < port < 65536 for port in value
    ):
        raise InvalidInputError("`webhooks.url.allowed_ports` must be a list of port numbers")
    return value


def _texts(value: Any, name: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(text, str) and text for text in value):
        raise InvalidInputError(f"`webhooks.{name}` must be a list of strings")
    return value


def _headers(headers: Any, prefix: str) -> dict[str, str]:
    if headers is None:
        return {}
    if not isinstance(headers, dict):
        raise InvalidInputError("`webhooks.headers` must be an object")
    for name, template in headers.items():
        if not _NAME.fullmatch(name) or name.lower() in _RESERVED or not isinstance(template, str):
            raise InvalidInputError(f"`webhooks.headers`: {name!r} cannot be set, or is no string")
        for expression in _TEMPLATE.findall(template):
            variable = _VARIABLE.fullmatch(expression.strip())
            if variable is None or not variable[1].startswith(prefix):
                raise InvalidInputError(
                    f"`webhooks.headers.{name}` must name variables as "
                    f"${{{{ env.{prefix}… }}}}, for they begin with `webhooks.env_prefix`"
                )
    return dict(headers)


def _object(value: Any, name: str, keys: frozenset[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInputError(f"`{name}` must be an object")
    if unknown := sorted(value.keys() - keys):
        raise InvalidInputError(f"`{name}` has a key that is not known: {unknown[0]}")
    return value
