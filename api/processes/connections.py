"""How many clients may be connected: each is an open file, and the system allows only so many."""

import resource

#: Of a system that allows any number.
MAX_FILES = 65_536


def allow_connections() -> int:
    """
    Open as many files as the system lets this process; how many may be clients' connections.

    A quarter is left for PostgreSQL, Redis and what graphs open. Without it a process that has as
    many clients as files could not even tell them that it is busy.
    """
    soft, hard = (_finite(files) for files in resource.getrlimit(resource.RLIMIT_NOFILE))
    files = max(soft, min(hard, MAX_FILES))
    if files > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    return files * 3 // 4


def _finite(files: int) -> int:
    return MAX_FILES if files == resource.RLIM_INFINITY else files
