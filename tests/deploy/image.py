"""
Builds the Dockerfile and runs what it makes, without Docker: `python -m tests.deploy.image PORT`.

A stage is an overlay on this machine's own root, with its Python in place of the base image's, so
nothing that a step does is done to the machine. To be started as root of namespaces of its own (see
`COMMAND`), with which all of it goes. Prints HEALTHY once the image's own health check passes.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMMAND = ["unshare", "--mount", "--pid", "--fork", "--kill-child", sys.executable, "-m", __name__]
HEALTHY = "the health check passes"
HEALTHY_SECONDS = 300.0
#: The machine's, by `api.processes.unprivileged`; a base image has no user of this name.
_OURS = "threadwell:"


@dataclass
class Stage:
    """A stage as far as it is built."""

    root: Path
    variables: dict[str, str] = field(
        default_factory=lambda: {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"}
    )
    directory: str = "/"
    user: str = "0:0"
    health: list[str] = field(default_factory=list)
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """Every instruction of a Dockerfile: its name and the rest."""
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("#"))
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line.strip():
            name, _, rest = line.strip().partition(" ")
            yield name.upper(), rest.strip()


class Build:
    """The stages of a Dockerfile, by their names; the last is the image."""

    def __init__(self, work: Path) -> None:
        self._work = work
        self._stages: dict[str, Stage] = {}
        self.image = Stage(Path("/"))

    def run(self, dockerfile: str) -> Stage:
        """Do every step; what the steps print goes to standard error."""
        for name, rest in instructions(dockerfile):
            sys.stderr.write(f"{name} {rest}\n")
            getattr(self, f"_{name.lower()}")(rest)
        return self.image

    def _from(self, rest: str) -> None:
        _, _, name = rest.partition(" AS ")
        self.image = Stage(_overlay(self._work / (name or "image")))
        _like_a_base_image(self.image.root)
        self._stages[name] = self.image

    def _workdir(self, rest: str) -> None:
        self.image.directory = rest
        self._inside(rest).mkdir(parents=True, exist_ok=True)

    def _copy(self, rest: str) -> None:
        *sources, target = shlex.split(rest)
        origin = ROOT
        if sources[0].startswith("--from="):
            origin = self._stages[sources.pop(0).removeprefix("--from=")].root
        for source in sources:
            to = self._inside(target)
            if target.endswith("/"):
                to = to / Path(source).name
            to.parent.mkdir(parents=True, exist_ok=True)
            of = origin / source.lstrip("/")
            if of.is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(of, to, symlinks=True, dirs_exist_ok=True, ignore=ignored)
            else:
                shutil.copy(of, to)

    def _run(self, rest: str) -> None:
        inside(self.image, ["/bin/sh", "-c", rest], check=True, stdout=sys.stderr)

    def _arg(self, rest: str) -> None:
        """Its default; before the first stage it is the base image's, which is this machine."""
        if self._stages:
            self._env(rest)

    def _env(self, rest: str) -> None:
        for word in shlex.split(rest):
            name, _, value = word.partition("=")
            self.image.variables[name] = value.replace("$PATH", self.image.variables["PATH"])

    def _user(self, rest: str) -> None:
        self.image.user = rest

    def _healthcheck(self, rest: str) -> None:
        self.image.health = json.loads(rest.partition("CMD ")[2])

    def _entrypoint(self, rest: str) -> None:
        self.image.entrypoint = json.loads(rest)

    def _cmd(self, rest: str) -> None:
        self.image.command = json.loads(rest)

    def _nothing(self, rest: str) -> None:
        """Only an engine has a use for it."""

    _volume = _expose = _stopsignal = _nothing

    def _inside(self, path: str) -> Path:
        return self.image.root / os.path.join(self.image.directory, path).lstrip("/")


def inside(
    stage: Stage, command: list[str], *, check: bool = False, **options: object
) -> subprocess.Popen[bytes]:
    """Start a program in a stage as its user, or wait for it."""
    user, group = stage.user.split(":")
    line = [
        *("chroot", str(stage.root), "/bin/sh", "-c", 'cd "$0" && exec "$@"', stage.directory),
        *("setpriv", "--reuid", user, "--regid", group, "--clear-groups", *command),
    ]
    variables = {**_machine(), **stage.variables}
    process = subprocess.Popen(line, env=variables, **options)  # type: ignore[call-overload]
    if check and (status := process.wait()):
        raise SystemExit(f"{command} failed: {status}")
    return process  # type: ignore[no-any-return]


def _machine() -> dict[str, str]:
    """How pip finds its index here: a base image knows by itself."""
    names = ("PIP_", "SSL_", "REQUESTS_", "HTTP", "http", "NO_PROXY", "no_proxy")
    return {name: value for name, value in os.environ.items() if name.startswith(names)}


def _overlay(place: Path) -> Path:
    """A root that is this machine's until something is written to it."""
    parts = [place / name for name in ("upper", "work", "merged")]
    for part in parts:
        part.mkdir(parents=True)
    upper, work, merged = parts
    options = f"lowerdir=/,upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, str(merged)], check=True)
    subprocess.run(["mount", "-t", "proc", "proc", str(merged / "proc")], check=True)
    subprocess.run(["mount", "--rbind", "/dev", str(merged / "dev")], check=True)
    return merged


def _like_a_base_image(root: Path) -> None:
    """Python by its usual names, for everybody, and no user of ours."""
    python = Path(sys.base_exec_prefix).resolve() / "bin" / f"python3.{sys.version_info.minor}"
    for alias in ("python", "python3"):
        path = root / "usr/local/bin" / alias
        path.unlink(missing_ok=True)
        # No link: a virtual environment looks for the library where its Python says that it is.
        path.write_text(f'#!/bin/sh\nexec {python} "$@"\n')
        path.chmod(0o755)
    for way in python.parents:
        inside = root / str(way).lstrip("/")
        inside.chmod(inside.stat().st_mode | 0o055)
    for name in ("passwd", "group", "shadow", "gshadow"):
        path = root / "etc" / name
        if path.exists():
            lines = path.read_text().splitlines(keepends=True)
            path.write_text("".join(line for line in lines if not line.startswith(_OURS)))


def _serve(image: Stage, port: str, variables: list[str]) -> int:
    image.variables |= {"THREADWELL_PORT": port} | dict(one.split("=", 1) for one in variables)
    server = inside(image, [*image.entrypoint, *image.command])
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    deadline = time.monotonic() + HEALTHY_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        if inside(image, image.health, stderr=subprocess.DEVNULL).wait() == 0:
            print(HEALTHY, flush=True)  # noqa: T201 - what the test waits for
            break
        with suppress(subprocess.TimeoutExpired):
            server.wait(0.5)
    return server.wait()


def main() -> int:
    """Build, then serve on the port that is named, with the variables that are."""
    work = Path("/run/threadwell-image")
    work.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(work)], check=True)
    port, *variables = sys.argv[1:]
    image = Build(work).run((ROOT / "Dockerfile").read_text())
    return _serve(image, port, variables)


if __name__ == "__main__":
    sys.exit(main())
