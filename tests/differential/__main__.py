"""
What `make differential` does, and keeps the lists of differences.

    python -m tests.differential record [WORDS]  asks the reference anew, in cases with these words
    python -m tests.differential accept          writes how the cases of differences.toml differ
    python -m tests.differential page            brings docs/compatibility.md up to date

`record` plays every case twice: one whose answers differ from one time to the next could not be
compared: it is named, and what was recorded of it before stays.
"""

import logging
import sys
import tempfile
from pathlib import Path

from api.processes.embedded import embedded_servers
from tests.differential import differences
from tests.differential.cases import CASES
from tests.differential.compare import diff
from tests.differential.recordings import read, write
from tests.differential.servers import heard, ours, reference

log = logging.getLogger("differential")


def record(words: str) -> bool:
    """Write down what the reference says; whether it said it twice."""
    wanted = [case for case in CASES.values() if words in f"{case.area}: {case.name}"]
    with (
        tempfile.TemporaryDirectory(prefix="reference-") as directory,
        reference(Path(directory)) as url,
    ):
        once, twice = heard(wanted, url), heard(wanted, url)
    unsteady = [name for name in once if once[name] != twice[name]]
    for name in unsteady:
        log.warning("unsteady: %s\n%s", name, "\n".join(diff(once[name], twice[name])))
    steady = {name: said for name, said in once.items() if name not in unsteady}
    write(read() | steady, CASES.values())
    log.info("recorded %d cases, %d of them unsteady", len(once), len(unsteady))
    return not unsteady


def accept() -> bool:
    """Write down how our server differs; whether each difference has a reason."""
    recorded = read()
    with (
        tempfile.TemporaryDirectory(prefix="threadwell-") as data,
        tempfile.TemporaryDirectory(prefix="threadwell-") as directory,
        embedded_servers(Path(data), postgres=True, valkey=True, durable=False) as started,
        ours(Path(directory), str(started.database_url), str(started.redis_url)) as server,
    ):
        answers = heard(list(CASES.values()), server.url)
    found = {name: differences.between(recorded[name], answers[name]) for name in CASES}
    differences.write_lines(found)
    named = {name for difference in differences.meant() for name in difference.cases}
    rest = [name for name in CASES if found[name] and name not in named]
    for name in rest:
        shown = differences.between(recorded[name], answers[name], context=1)
        log.info("%s: %s\n%s", CASES[name].area, name, "\n".join(shown))
    log.info("%d cases differ without a reason", len(rest))
    return not rest


def main(verb: str, *words: str) -> bool:
    """Do it; whether all is well."""
    if verb == "record":
        return record(" ".join(words))
    done = accept() if verb == "accept" else True
    differences.PAGE.write_text(differences.page())
    return done


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    sys.exit(0 if main(*sys.argv[1:]) else 1)
