"""What an `Auth` and the members of a session make of one another."""

from typing import Any

import pytest
from langgraph_sdk import Auth

from api.identity.auth import Caller
from api.identity.authority import Action, AuthHandlers, Resource
from graph.user import User
from store.access import EVERYTHING, Access
from store.errors import PermissionDeniedError

VIEWS: dict[str, Any] = {"members": {"bob": "viewer"}}
EDITS: dict[str, Any] = {"members": {"bob": "editor"}}
OWNS = {"owner": "bob"}


def bob(answer: Any) -> Caller:
    """Somebody whose `Auth` answers everything with this."""
    auth = Auth()

    @auth.authenticate
    async def authenticate() -> str:
        return "bob"

    @auth.on
    async def anything(ctx: Any, value: dict[str, Any]) -> Any:
        # As an author's handler may: it is not what the caller asked for.
        value.setdefault("metadata", {}).update(OWNS)
        return answer

    return Caller(request_id="r", user=User({"identity": "bob"}), authority=AuthHandlers(auth))


@pytest.mark.parametrize(
    ("action", "value", "roles"),
    [
        ("read", {"thread_id": "t"}, (VIEWS, EDITS)),
        ("create_run", {"thread_id": "t", "kwargs": {}}, (EDITS,)),
        ("update", {"thread_id": "t"}, (EDITS,)),
        ("update", {"thread_id": "t", "run_id": "r", "action": "interrupt"}, (EDITS,)),
        ("update", {"thread_id": "t", "run_ids": ["r"], "status": None}, (EDITS,)),
        ("update", {"thread_id": "t", "metadata": {}}, ()),
        ("update", {"thread_id": "t", "something_new": 1}, ()),
        ("update", {"status": "all", "action": "interrupt"}, ()),
        ("update", {"thread_ids": ["t"], "strategy": "keep_latest"}, ()),
        ("create", {"thread_id": "t"}, ()),
        ("delete", {"thread_id": "t"}, ()),
    ],
)
async def test_members_may_what_their_role_says(
    action: Action, value: dict[str, Any], roles: tuple[dict[str, Any], ...]
) -> None:
    access = await bob(OWNS).may("threads", action, value)

    assert access == Access((OWNS, *roles))


async def test_a_search_finds_what_is_shared_whatever_a_handler_adds_to_it() -> None:
    value: dict[str, Any] = {"metadata": {"team": "a"}}

    access = await bob(None).may("threads", "search", value)

    assert access == Access((OWNS, VIEWS, EDITS))
    assert value["metadata"] == {"team": "a"}


@pytest.mark.parametrize("resource", ["assistants", "crons", "store"])
async def test_nothing_but_threads_is_shared(resource: Resource) -> None:
    assert await bob(True).may(resource, "read", {}) == EVERYTHING
    if resource != "store":
        assert await bob(OWNS).may(resource, "read", {}) == Access((OWNS,))


async def test_who_sees_everything_sees_no_more_and_who_is_refused_sees_nothing() -> None:
    answers: list[Any] = [True, None, {}]
    for answer in answers:
        assert await bob(answer).may("threads", "read", {"thread_id": "t"}) == EVERYTHING
    with pytest.raises(PermissionDeniedError):
        await bob(False).may("threads", "read", {"thread_id": "t"})
    own = await bob(OWNS).may("threads", "read", {"thread_id": "t"}, shared=False)
    assert own == Access((OWNS,))
