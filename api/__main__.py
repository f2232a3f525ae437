"""The console script `threadwell`: flags over environment over defaults, then `api.console.commands`."""

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from api import __version__
from api.console import commands
from api.identity.permissions import ROLES
from api.observability import logs
from api.processes.embedded import EmbeddedServerError
from api.settings import Settings, environment_names, set_environment
from api.settings_reading import read_settings
from graph.config import load_env
from store.errors import Error

COMMANDS = {
    "serve": (
        "serve the API and work on runs, on embedded servers unless others are named",
        ["host", "port", "workers", "config", "strict", "data_dir", "slots"],
    ),
    "worker": ("work on runs without serving the API", ["config", "strict", "data_dir", "slots"]),
    "migrate": ("bring the database's schema up to date", ["config", "data_dir"]),
    "project": (
        "write to the message table what the checkpoints have and it has not",
        ["config", "data_dir"],
    ),
    "audit": (
        "print the audit log, a JSON object a line, the newest first",
        ["config", "data_dir"],
    ),
    "check": (
        "look for what does not hold between runs, threads, checkpoints, messages, search, files and "
        "event log; status 1 if anything is left of it",
        ["config", "data_dir"],
    ),
    "encrypt": (
        "encrypt what the database has with LANGGRAPH_AES_KEY, while servers run that have the key",
        ["config", "data_dir"],
    ),
    "keys": ("make, list and revoke API keys", ["data_dir"]),
    "import": (
        "import the conversations of an old project's database; again: only what is new",
        ["config", "data_dir"],
    ),
}


def _moment(text: str) -> datetime:
    """A time of the command line; without a zone it is UTC."""
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


#: Flags that are no settings.
OPTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "project": {
        "--rebuild": {
            "action": "store_true",
            "default": False,
            "help": "make the whole table anew from the checkpoints",
        },
    },
    "audit": {
        "--act": {"default": None, "help": "only these, as share.created"},
        "--actor": {"default": None, "help": "only what this identity did"},
        "--owner": {"default": None, "help": "only what was done to what is this identity's"},
        "--subject": {"default": None, "help": "only what was done to this, as user:ada"},
        "--since": {"default": None, "type": _moment, "help": "from this time on, in ISO 8601"},
        "--until": {"default": None, "type": _moment, "help": "before this time, in ISO 8601"},
        "--limit": {"default": 1000, "type": int, "help": "entries at the most (1000)"},
    },
    "check": {
        "--repair": {
            "action": "store_true",
            "default": False,
            "help": "put right what can be, without losing what anybody said",
        },
        "--json": {
            "action": "store_true",
            "default": False,
            "help": "print a JSON object for each finding",
        },
    },
    "encrypt": {
        "--accept-clear": {
            "action": "store_true",
            "default": False,
            "help": "encrypt also what came into an encrypted database in the clear, "
            "whoever wrote it there",
        },
    },
    "keys": {
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
            "help": "what else it may do, as threads:read or store:*, repeatable; see docs/auth.md",
        },
        "--expires": {
            "default": "90d",
            "help": "after how long it opens nothing any more: 30m, 12h, 90d (the default), or never",
        },
        "--json": {
            "action": "store_true",
            "default": False,
            "help": "answer in JSON",
        },
    },
    "import": {
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
            "help": "IANA zone of the times in it. SQLite's are UTC (the default), MySQL's are local.",
        },
        "--assistant": {
            "default": None,
            "help": "the graph, or assistant, that goes on with them; default: the first graph",
        },
        "--user-id": {
            "default": None,
            "help": "whose they are, where the database does not say",
        },
        "--dry-run": {
            "action": "store_true",
            "default": False,
            "help": "say what would be done, and do nothing",
        },
    },
}
FLAG_TYPES = {"port": int, "workers": int, "slots": int, "config": Path, "data_dir": Path}
EPILOG = """\
Every setting is also an environment variable, and there are more of them: docs/settings.md.
A flag wins over the environment, the environment over the default. DATABASE_URL and REDIS_URL
name servers of yours; without them an embedded PostgreSQL and Valkey are started.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; give the exit status: 0 done, 1 failed, 2 not understood."""
    arguments = vars(_parser().parse_args(argv))
    command = arguments.pop("command")
    options = {name: arguments.pop(name) for name in map(_attribute, OPTIONS.get(command, ()))}
    try:
        settings = _settings(arguments)
    except Error as exc:
        return _complain(exc.message, status=2)
    logs.configure(
        level=settings.log_level, json=settings.log_json, error_texts=settings.logs_error_texts
    )
    try:
        getattr(commands, "import_" if command == "import" else command)(settings, **options)
    except (EmbeddedServerError, Error) as exc:
        return _complain(str(exc), status=1)
    return 0


def _settings(arguments: dict[str, Any]) -> Settings:
    """The settings, with what the `env` of the langgraph.json that they name has of them."""
    set_environment(load_env(read_settings(**arguments).config))
    return read_settings(**arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="threadwell", description="A self-hosted LangGraph agent server.", epilog=EPILOG
    )
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (about, fields) in COMMANDS.items():
        subparser = subparsers.add_parser(
            name,
            help=about,
            description=f"{about[0].upper()}{about[1:]}.",
            epilog=EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            # What is not given must not hide the environment's value.
            argument_default=argparse.SUPPRESS,
            allow_abbrev=False,
        )
        for field in fields:
            _add_setting(subparser, field)
        for option, about_it in OPTIONS.get(name, {}).items():
            subparser.add_argument(option, **about_it)
    return parser


def _attribute(option: str) -> str:
    return option.lstrip("-").replace("-", "_")


def _add_setting(parser: argparse.ArgumentParser, field: str) -> None:
    """Give a setting its flag; the help repeats its own description, with unit and default."""
    declared = Settings.model_fields[field]
    shown = f"{declared.description} Default: {declared.default} (${environment_names(field)[0]})"
    if declared.annotation is bool:
        parser.add_argument(
            f"--{field}", action="store_true", default=argparse.SUPPRESS, help=shown
        )
        return
    parser.add_argument(
        f"--{field.replace('_', '-')}",
        type=FLAG_TYPES.get(field, str),
        metavar=field.rpartition("_")[2].upper(),
        help=shown,
    )


def _complain(message: str, *, status: int) -> int:
    sys.stderr.write(f"threadwell: {message}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
