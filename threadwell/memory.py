"""The seed's memory for chains that still have one; needs the extra ``classic``."""

from typing import Any

from langchain_classic.memory.chat_memory import BaseChatMemory
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, get_buffer_string

from threadwell.connection import Connection
from threadwell.langchain import SessionChatMessageHistory


class CustomSessionMemory(BaseChatMemory):
    """
    The conversation of a session as a chain's memory, of one mode of it.

    What was said in the session in another mode (``chat_type``) is not seen, as in the project that this
    comes from; what a graph said, or whoever names no mode, is.

    Args:
        conversation_id: The session: a UUID, with dashes or without.
        chat_type: The mode; kept with what the chain says.
        message_limit: How many of the last messages are seen; 0 for none.
        memory_key: The variable of the prompt.
        return_messages: As messages, or as text.
        connection: The server; `threadwell.connection.default` unless given.
    """

    conversation_id: str
    chat_type: str
    message_limit: int = 10
    memory_key: str = "chat_history"
    return_messages: bool = True

    def __init__(
        self,
        conversation_id: str,
        chat_type: str,
        message_limit: int = 10,
        memory_key: str = "chat_history",
        return_messages: bool = True,
        *,
        connection: Connection | None = None,
        **more: Any,
    ) -> None:
        history = SessionChatMessageHistory(
            conversation_id, connection=connection, attributes={"chat_type": chat_type}
        )
        own: dict[str, Any] = {
            "conversation_id": conversation_id,
            "chat_type": chat_type,
            "message_limit": message_limit,
            "memory_key": memory_key,
        }
        super().__init__(return_messages=return_messages, chat_memory=history, **own, **more)

    @property
    def memory_variables(self) -> list[str]:
        """The variable of the prompt."""
        return [self.memory_key]

    def load_memory_variables(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The last messages of the session, oldest first."""
        return self._shown(self.chat_memory.messages)

    async def aload_memory_variables(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The same, without blocking the event loop."""
        return self._shown(await self.chat_memory.aget_messages())

    def save_context(self, inputs: dict[str, Any], outputs: dict[str, str]) -> None:
        """Add a question and its answer to the session, in one step."""
        self.chat_memory.add_messages(self._turn(inputs, outputs))

    async def asave_context(self, inputs: dict[str, Any], outputs: dict[str, str]) -> None:
        """The same, without blocking the event loop."""
        await self.chat_memory.aadd_messages(self._turn(inputs, outputs))

    def _turn(self, inputs: dict[str, Any], outputs: dict[str, str]) -> list[BaseMessage]:
        asked, answered = self._get_input_output(inputs, outputs)
        kept = {"chat_type": self.chat_type}
        return [
            HumanMessage(asked, additional_kwargs=kept),
            AIMessage(answered, additional_kwargs=kept),
        ]

    def _shown(self, messages: list[BaseMessage]) -> dict[str, Any]:
        ours = [m for m in messages if _mode_of(m) in (None, self.chat_type)]
        last = ours[-self.message_limit :] if self.message_limit > 0 else []
        return {self.memory_key: last if self.return_messages else get_buffer_string(last)}


def _mode_of(message: BaseMessage) -> Any:
    return message.additional_kwargs.get("chat_type")
