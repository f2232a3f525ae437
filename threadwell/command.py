"""What the console script `threadwell` calls."""

from threadwell import own_packages

# `PYTHONPATH=.` in a project that has an `api` of its own.
own_packages.require("api")

from api.__main__ import main

__all__ = ["main"]
