"""How many clients a process takes, by the files that it may open."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource
from api.processes.connections import allow_connections
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
print(allow_connections(), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.parametrize(
    ("soft", "hard", "expected"), [(64, 400, "300 400"), (400, 400, "300 400")]
)
def test_a_process_opens_what_the_system_allows_and_leaves_a_quarter(
    soft: int, hard: int, expected: str
) -> None:
    program = [sys.executable, "-c", PROGRAM.format(soft=soft, hard=hard)]

    done = subprocess.run(program, check=True, capture_output=True, text=True, timeout=30)

    assert done.stdout.strip() == expected
