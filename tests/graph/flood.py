"""A graph whose answer is much, in pieces: for clients that do not keep up."""

from collections.abc import AsyncIterator
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk
from langgraph.graph import END, START, MessagesState, StateGraph

from tests.graph.sample_graphs import ScriptedModel

#: Together more than what a system keeps for a socket that nobody reads, and less than a log holds.
PIECES, PIECE_BYTES = 5_000, 2_500


class FloodingModel(ScriptedModel):
    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        for number in range(PIECES):
            text = f"{number} ".ljust(PIECE_BYTES, ".")
            chunk = ChatGenerationChunk(message=AIMessageChunk(content=text))
            if run_manager is not None:
                await run_manager.on_llm_new_token(text, chunk=chunk)
            yield chunk


async def _answer(state: MessagesState) -> dict[str, Any]:
    said = await FloodingModel().ainvoke(state["messages"])
    # What is whole is small: it is how much there was that matters.
    return {"messages": [said.model_copy(update={"content": f"{len(said.text)} in all"})]}


flood = (
    StateGraph(MessagesState)
    .add_node("model", _answer)
    .add_edge(START, "model")
    .add_edge("model", END)
    .compile()
)
