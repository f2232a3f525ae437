"""
Who the embedded servers run as.

PostgreSQL refuses to run as root. Started by root, the servers therefore run as the owner of their
files or, the first time, as the system user `threadwell` (made with `useradd`), else `nobody`.
"""

import logging
import os
import pwd
import stat
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SYSTEM_USER = "threadwell"
FALLBACK_USER = "nobody"
READ_BY_OTHERS = stat.S_IROTH | stat.S_IXOTH

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Account:
    """A user to run programs as, and the groups that open the way to their files."""

    uid: int
    gid: int
    groups: frozenset[int] = frozenset()

    @property
    def popen_arguments(self) -> dict[str, Any]:
        """What `subprocess.Popen` needs to run a program as this account."""
        if self.uid == os.geteuid():
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": sorted(self.groups)}

    def own(self, directory: Path) -> None:
        """
        Make a directory that only this account (and root) can enter.

        Raises:
            PermissionError: It exists and belongs to somebody else.
        """
        directory.mkdir(mode=0o700, exist_ok=True)
        found = directory.lstat()
        if found.st_uid not in {self.uid, os.geteuid()} or not stat.S_ISDIR(found.st_mode):
            raise PermissionError(f"{directory} belongs to somebody else")
        if found.st_uid != self.uid:
            os.chown(directory, self.uid, self.gid)
        directory.chmod(0o700)


def account_for(directory: Path, *, needs: Sequence[Path]) -> Account:
    """
    Choose who runs a server that keeps its files in `directory` and needs what is in `needs`.

    Root hands over to an unprivileged account. Where a directory on the way does not let that
    account pass (root's home is 0700 as a rule), the directory's *group* gets the right to pass, not to
    list, and the account gets that group: nobody else gains anything. `directory` exists afterwards
    and belongs to the account.

    Raises:
        OSError: The directory cannot be made, or a way cannot be opened.
    """
    if os.geteuid() != 0:
        account = Account(os.geteuid(), os.getegid())
    else:
        owner = directory.stat() if directory.exists() else None
        if owner is not None and owner.st_uid != 0:
            account = Account(owner.st_uid, owner.st_gid)
        else:
            user = _unprivileged_user()
            account = Account(user.pw_uid, user.pw_gid)
        groups = _open_ways(account, {way for end in (directory, *needs) for way in end.parents})
        for tree in needs:
            groups |= _open_tree(account, tree)
        account = Account(account.uid, account.gid, frozenset(groups))
    account.own(directory)
    return account


def _unprivileged_user() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        pass
    command = ["useradd", "--system", "--no-create-home", "--shell", "/bin/false", SYSTEM_USER]
    try:
        # Another process may be faster: only the look-up below tells.
        subprocess.run(command, check=False, capture_output=True, timeout=30)
        return pwd.getpwnam(SYSTEM_USER)
    except (FileNotFoundError, KeyError):
        return pwd.getpwnam(FALLBACK_USER)


def _open_ways(account: Account, directories: Iterable[Path]) -> set[int]:
    """Let `account` pass through; return the groups it needs for that."""
    groups = set()
    opened = []
    for directory in sorted(directories):
        found = directory.stat()
        if found.st_uid == account.uid or found.st_mode & stat.S_IXOTH:
            continue
        groups.add(found.st_gid)
        if not found.st_mode & stat.S_IXGRP:
            directory.chmod(stat.S_IMODE(found.st_mode) | stat.S_IXGRP)
            opened.append(str(directory))
    if opened:
        _logger.warning("for the embedded servers, chmod g+x: %s", " ".join(opened))
    return groups


def _open_tree(account: Account, top: Path) -> set[int]:
    """Let `account` read and run everything under `top`, which a strict umask may prevent."""
    found = top.stat()
    if found.st_uid == account.uid or found.st_mode & READ_BY_OTHERS == READ_BY_OTHERS:
        return set()
    for path in [top, *top.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        path.chmod(mode | (mode & stat.S_IRWXU & ~stat.S_IWUSR) >> 3)
    return {found.st_gid}
