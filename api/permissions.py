"""What callers were granted beside what is theirs, by names such as ``audit:read``."""

from api.auth import Caller


def has(caller: Caller, permission: str) -> bool:
    """Whether a caller has a permission: itself, all of its resource, or all; everybody without auth."""
    if caller.may_everything or caller.user is None:
        return True
    ways = {permission, f"{permission.partition(':')[0]}:*", "*"}
    return not ways.isdisjoint(caller.user.permissions)
