"""An application of yours within Threadwell: its routes come first, the rest is the server's."""

from fastapi import FastAPI
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import Runnable, RunnableLambda
from pydantic import BaseModel

from threadwell.langchain import attach

app = FastAPI(title="Yours")


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
