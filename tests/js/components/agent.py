"""A graph that shows components of its own beside what it says."""

from collections.abc import Sequence
from typing import Annotated, Any, TypedDict

from langchain_core.messages import AIMessage, AnyMessage
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.graph.ui import AnyUIMessage, delete_ui_message, push_ui_message, ui_message_reducer


class State(TypedDict):
    """What is said, and what is shown."""

    messages: Annotated[Sequence[AnyMessage], add_messages]
    ui: Annotated[Sequence[AnyUIMessage], ui_message_reducer]


async def weather(state: State) -> dict[str, Any]:
    """Show the weather, add to what is shown, and take something else away."""
    answer = AIMessage("Here it is.", id="answer")
    push_ui_message("draft", {}, id="draft", message=answer)
    push_ui_message("weather", {"city": "Oslo"}, id="shown", message=answer)
    push_ui_message("weather", {"degrees": 7}, id="shown", message=answer, merge=True)
    delete_ui_message("draft")
    return {"messages": [answer]}


graph = StateGraph(State).add_node(weather).add_edge(START, "weather").compile()
