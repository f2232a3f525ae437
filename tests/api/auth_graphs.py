"""Graphs that tell who runs them."""

from typing import Any, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from langgraph.runtime import get_runtime
from langgraph_sdk import Auth
from langgraph_sdk.runtime import ServerRuntime


class State(TypedDict):
    told: Any


def tell(state: State, config: RunnableConfig) -> Any:
    configurable = config["configurable"]
    user = configurable["langgraph_auth_user"]
    info: Any = get_runtime().server_info
    return {
        "told": {
            "json": user,
            "attributes": [
                user.identity, user.display_name, user.is_authenticated, user.permissions
            ],
            "item": user["identity"],
            "keys": sorted(user),
            "extra": user.extra.a if "extra" in user else None,
            "user_id": configurable["user_id"],
            "id": configurable["langgraph_auth_user_id"],
            "permissions": configurable["langgraph_auth_permissions"],
            "others": sorted(key for key in configurable if key.startswith("langgraph_auth")),
            "server_info": info.user.identity,
            "is_studio": isinstance(user, Auth.types.StudioUser),
        }
    }  # fmt: skip


builder = StateGraph(State)
builder.add_node("tell", tell)
builder.add_edge(START, "tell")
who = builder.compile()


def maker(runtime: ServerRuntime[Any]) -> Any:
    """A graph that is made for its user."""
    identity = runtime.ensure_user().identity

    def tell_identity(state: State) -> Any:
        return {"told": {"identity": identity}}

    made = StateGraph(State)
    made.add_node("tell_identity", tell_identity)
    made.add_edge(START, "tell_identity")
    return made.compile()
