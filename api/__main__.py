"""The console script `threadwell`: flags over environment over defaults, then `api.console.table`."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from api import __version__
from api.console.table import COMMANDS
from api.observability import logs
from api.processes.embedded import EmbeddedServerError
from api.settings import Settings, environment_names, set_environment
from api.settings_reading import read_settings
from graph.config import load_env
from store.errors import Error

#: How the text of a flag is read, by what the setting is.
_PARSERS: dict[Any, Callable[[str], Any]] = {int: int, Path: Path}
EPILOG = """\
Every setting is also an environment variable, and there are more of them: docs/settings.md.
A flag wins over the environment, the environment over the default. DATABASE_URL and REDIS_URL
name servers of yours; without them an embedded PostgreSQL and Valkey are started.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; give the exit status: 0 done, 1 failed, 2 not understood."""
    arguments = vars(_parser().parse_args(argv))
    command = COMMANDS[arguments.pop("command")]
    options = {name: arguments.pop(name) for name in map(_attribute, command.options)}
    try:
        settings = _settings(arguments)
    except Error as exc:
        return _complain(exc.message, status=2)
    logs.configure(
        level=settings.log_level, json=settings.log_json, error_texts=settings.logs_error_texts
    )
    try:
        command.run(settings, **options)
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
    for name, command in COMMANDS.items():
        subparser = subparsers.add_parser(
            name,
            help=command.about,
            description=f"{command.about[0].upper()}{command.about[1:]}.",
            epilog=EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            # What is not given must not hide the environment's value.
            argument_default=argparse.SUPPRESS,
            allow_abbrev=False,
        )
        for field in command.settings:
            _add_setting(subparser, field)
        for option, how in command.options.items():
            subparser.add_argument(option, **how)
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
        type=_PARSERS.get(declared.annotation, str),
        metavar=field.rpartition("_")[2].upper(),
        help=shown,
    )


def _complain(message: str, *, status: int) -> int:
    sys.stderr.write(f"threadwell: {message}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
