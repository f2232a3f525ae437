"""What the console script `threadwell` can be told to do: a row for each of its commands."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from api.console import commands
from api.identity.permissions import ROLES

#: What `argparse.ArgumentParser.add_argument` takes.
Option = Mapping[str, Any]
#: Of a flag that is there or is not.
_SWITCH: Final[Option] = {"action": "store_true", "default": False}


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """
    One subcommand.

    Attributes:
        about: What it does, as help says it.
        run: Does it, given the settings, and the options by their names.
        settings: Those that have a flag.
        options: What else it takes.
    """

    about: str
    run: Callable[..., None]
    settings: tuple[str, ...] = ("config", "data_dir")
    options: Mapping[str, Option] = field(default_factory=dict)


def _moment(text: str) -> datetime:
    """A time of the command line; without a zone it is UTC."""
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


COMMANDS: Final[dict[str, Command]] = {
    "serve": Command(
        about="serve the API and work on runs, on embedded servers unless others are named",
        run=commands.serve,
        settings=("host", "port", "workers", "config", "strict", "data_dir", "slots"),
    ),
    "worker": Command(
        about="work on runs without serving the API",
        run=commands.worker,
        settings=("config", "strict", "data_dir", "slots"),
    ),
    "migrate": Command(about="bring the database's schema up to date", run=commands.migrate),
    "project": Command(
        about="write to the message table what the checkpoints have and it has not",
        run=commands.project,
        options={
            "--rebuild": {**_SWITCH, "help": "make the whole table anew from the checkpoints"}
        },
    ),
    "audit": Command(
        about="print the audit log, a JSON object a line, the newest first",
        run=commands.audit,
        options={
            "--act": {"default": None, "help": "only these, as share.created"},
            "--actor": {"default": None, "help": "only what this identity did"},
            "--owner": {"default": None, "help": "only what was done to what is this identity's"},
            "--subject": {"default": None, "help": "only what was done to this, as user:ada"},
            "--since": {
                "default": None,
                "type": _moment,
                "help": "from this time on, in ISO 8601",
            },
            "--until": {"default": None, "type": _moment, "help": "before this time, in ISO 8601"},
            "--limit": {"default": 1000, "type": int, "help": "entries at the most (1000)"},
        },
    ),
    "check": Command(
        about="look for what does not hold between runs, threads, checkpoints, messages, search, files "
        "and event log; status 1 if anything is left of it",
        run=commands.check,
        options={
            "--repair": {
                **_SWITCH,
                "help": "put right what can be, without losing what anybody said",
            },
            "--json": {**_SWITCH, "help": "print a JSON object for each finding"},
        },
    ),
    "encrypt": Command(
        about="encrypt what the database has with LANGGRAPH_AES_KEY, while servers run that have the key",
        run=commands.encrypt,
        options={
            "--accept-clear": {
                **_SWITCH,
                "help": "encrypt also what came into an encrypted database in the clear, "
                "whoever wrote it there",
            },
        },
    ),
    "build-ui": Command(
        about="bundle the components that `ui` of langgraph.json names, by Node.js",
        run=commands.build_ui,
    ),
    "keys": Command(
        about="make, list and revoke API keys",
        run=commands.keys,
        settings=("data_dir",),
        options={
            "action": {"choices": ["create", "list", "revoke"]},
            "key_id": {
                "nargs": "?",
                "default": None,
                "metavar": "KEY",
                "help": "revoke: the key's id, or the key itself",
            },
            "--owner": {"default": None, "help": "who calls with the key; list: whose keys"},
            "--name": {"default": "", "help": "what the key is for"},
            "--role": {
                "action": "append",
                "default": None,
                "choices": list(ROLES),
                "help": "what it may do, repeatable; without one and without a permission: user",
            },
            "--permission": {
                "action": "append",
                "default": None,
                "help": "what else it may do, as threads:read or store:*, repeatable; "
                "see docs/auth.md",
            },
            "--expires": {
                "default": "90d",
                "help": "after how long it opens nothing any more: 30m, 12h, 90d (the default), "
                "or never",
            },
            "--json": {**_SWITCH, "help": "answer in JSON"},
        },
    ),
    "import": Command(
        about="import the conversations of an old project's database; again: only what is new",
        run=commands.import_,
        options={
            "source": {"choices": ["chatchat"], "help": "whose database it is"},
            "--url": {
                "required": True,
                "help": "SQLAlchemy's: sqlite:///info.db, mysql://user:password@host/name",
            },
            "--dialect": {
                "choices": ["fufan", "chatchat"],
                "default": "chatchat",
                "help": "fufan-chat-api, or Langchain-Chatchat 0.2 and 0.3 (the default)",
            },
            "--tz": {
                "default": "UTC",
                "help": "IANA zone of the times in it. SQLite's are UTC (the default), "
                "MySQL's are local.",
            },
            "--assistant": {
                "default": None,
                "help": "the graph, or assistant, that goes on with them; default: the first graph",
            },
            "--user-id": {
                "default": None,
                "help": "whose they are, where the database does not say",
            },
            "--dry-run": {**_SWITCH, "help": "say what would be done, and do nothing"},
        },
    ),
}
