"""A chat model for when none is connected: it streams, remembers, and says what it is."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

_ENGLISH = """\
I am the built-in offline model: no language model is connected, so I can only tell you what I see.

You wrote: “{last}”. {memory}

To talk to a real model, set OPENAI_API_KEY and start the server again. For another \
OpenAI-compatible server (vLLM, Ollama, llama.cpp, FastChat) set OPENAI_BASE_URL and MODEL too."""
_ENGLISH_FIRST = "It is the first message of this conversation."
_ENGLISH_LATER = "It is message {count} of this conversation, which you began with: “{first}”."

_CHINESE = """\
我是内置的离线模型：目前没有连接任何语言模型，所以我只能告诉你我看到了什么。

你写的是：“{last}”。{memory}

要与真正的模型对话，请设置 OPENAI_API_KEY 并重新启动服务；\
若使用其他兼容 OpenAI 的服务（vLLM、Ollama、llama.cpp、FastChat），请再设置 OPENAI_BASE_URL 和 MODEL。"""
_CHINESE_FIRST = "这是本次对话的第一条消息。"
_CHINESE_LATER = "这是本次对话的第 {count} 条消息，你的第一条消息是：“{first}”。"

_HAN = re.compile(r"[\u3400-\u9fff]")
# As a real model streams: a word with its space, or one or two Chinese characters.
_TOKEN = re.compile(r"[\u3000-\u9fff\uff00-\uffef]{1,2}|[^\s\u3000-\u9fff\uff00-\uffef]+\s*|\s+")
_QUOTE_LIMIT = 200
_CHARACTERS_PER_TOKEN = 4


class OfflineModel(BaseChatModel):
    """Answers from the conversation alone, in Chinese if asked in Chinese."""

    @property
    def _llm_type(self) -> str:
        return "offline"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        answer = _answer(messages)
        usage = _usage(messages, len(_TOKEN.findall(answer)))
        message = AIMessage(answer, response_metadata=_ENDING, usage_metadata=usage)
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in _chunks(messages):
            if run_manager is not None:
                await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk
            # Others get their turn after each token, as they would with a model across a network.
            await asyncio.sleep(0)


_ENDING = {"finish_reason": "stop", "model_name": "offline"}


def _chunks(messages: list[BaseMessage]) -> Iterator[ChatGenerationChunk]:
    tokens = _TOKEN.findall(_answer(messages))
    for token in tokens:
        yield ChatGenerationChunk(message=AIMessageChunk(content=token))
    usage = _usage(messages, len(tokens))
    ending = AIMessageChunk(content="", response_metadata=_ENDING, usage_metadata=usage)
    yield ChatGenerationChunk(message=ending)


def _usage(messages: list[BaseMessage], count: int) -> UsageMetadata:
    # About: to count the tokens of a long conversation takes longer than all else in a run.
    asked = sum(len(message.content) for message in messages) // _CHARACTERS_PER_TOKEN
    return UsageMetadata(input_tokens=asked, output_tokens=count, total_tokens=asked + count)


def _answer(messages: list[BaseMessage]) -> str:
    questions = [message for message in messages if isinstance(message, HumanMessage)]
    asked = [str(message.text) for message in (*questions[:1], *questions[1:][-1:])] or [""]
    count = sum(isinstance(message, HumanMessage | AIMessage) for message in messages)
    chinese = _HAN.search(asked[-1]) is not None
    if len(asked) == 1:
        memory = _CHINESE_FIRST if chinese else _ENGLISH_FIRST
    else:
        later = _CHINESE_LATER if chinese else _ENGLISH_LATER
        memory = later.format(count=count, first=_quoted(asked[0]))
    answer = _CHINESE if chinese else _ENGLISH
    return answer.format(last=_quoted(asked[-1]), memory=memory)


def _quoted(text: str) -> str:
    return text if len(text) <= _QUOTE_LIMIT else text[:_QUOTE_LIMIT] + "…"
