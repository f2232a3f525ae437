"""An application of yours with Threadwell in it: the chain's history is a session of the graph's."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import Runnable, RunnableLambda
from pydantic import BaseModel

from threadwell.langchain import attach
from threadwell.mounting import Threadwell

threadwell = Threadwell(config=Path(__file__).parent / "langgraph.json")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Your own start and end are around it."""
    async with threadwell.living():
        yield


app = FastAPI(title="Yours", lifespan=lifespan)
app.mount("/threadwell", threadwell)


class Question(BaseModel):
    """What your front end sends."""

    thread_id: str
    text: str


def _answer(messages: list[BaseMessage]) -> AIMessage:
    return AIMessage(f"The chain was told {len(messages)} things.")


#: Yours would have a prompt and a model.
model: Runnable[list[BaseMessage], AIMessage] = RunnableLambda(_answer)
chain = attach(model)


@app.post("/old/chat")
async def old_chat(question: Question) -> dict[str, str]:
    """Answer as ever."""
    config = {"configurable": {"thread_id": question.thread_id}}
    answer = await chain.ainvoke(question.text, config)  # type: ignore[arg-type]
    return {"answer": answer.content}
