"""
Titles of sessions: at once the first words that are said, then the model's, as a durable job.

Never in place of a name that somebody gave: see `graph.first_words`.
"""

import asyncio
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage, SystemMessage

from graph.first_words import LOOK_AT_CHARACTERS, LOOK_AT_MESSAGES, SOURCE, TITLE, shortened
from graph.jobs import JobFailedError, Kind
from graph.loop import Backing, Place
from store import messages, sessions
from store.access import EVERYTHING, Access
from store.database import Database
from store.errors import ChangedError, ConflictError, NotFoundError, RunFailedError
from store.jobs import Job
from store.models import JsonObject, Message, Session

#: How long the model may take.
MODEL_SECONDS: Final = 60.0
#: How often something else may change of a session while it gets a title, before its name stays.
ATTEMPTS: Final = 5
#: The pauses between tries.
PAUSES_SECONDS: Final = (10.0, 60.0, 600.0)

#: What the model is told; its first sentence tells such a request from others.
PROMPT: Final = (
    "You give conversations their titles. Answer with a title for the conversation that you are shown, in "
    "{language}: at most six words, or twelve characters of Chinese or Japanese. Without quotation marks, "
    "without a full stop, nothing but the title."
)

_LANGUAGES: Final = {
    "ar": "Arabic", "de": "German", "en": "English", "es": "Spanish", "fr": "French",
    "it": "Italian", "ja": "Japanese", "ko": "Korean", "nl": "Dutch", "pl": "Polish",
    "pt": "Portuguese", "ru": "Russian", "tr": "Turkish", "uk": "Ukrainian",
    "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip
_SCRIPTS: Final = (
    ("ja", re.compile("[\u3041-\u30ff]")),
    ("ko", re.compile("[\uac00-\ud7a3]")),
    ("zh", re.compile("[\u3400-\u9fff]")),
)
_THOUGHT: Final = re.compile(r"<think>.*?(</think>|$)", re.S)
_LABEL: Final = re.compile(r"(title|标题|題目|タイトル)\s*[:：]\s*", re.I)
_AROUND: Final = " \t\"'`*#_.\u201c\u201d\u2018\u2019\u300c\u300d\u300e\u300f\u300a\u300b\u3002"


class Titles:
    """
    Has titles made by a model; one for each process.

    Args:
        place: Where graphs are executed: clients of models belong to that event loop.
        model: The model, chosen anew for each title; None for none, then first words are all.
    """

    def __init__(
        self, *, db: Database, place: Place, model: Callable[[], BaseChatModel | None] | None
    ) -> None:
        self._db = db
        self._place = place
        self._model = model

    @property
    def has_model(self) -> bool:
        """Whether titles are to be asked for."""
        return self._model is not None

    def kind(self) -> Kind:
        """How its jobs are done."""
        # Longer than the model may take.
        return Kind(
            work=self.work, timeout_seconds=2 * MODEL_SECONDS, pauses_seconds=PAUSES_SECONDS
        )

    async def work(self, job: Job) -> None:
        """
        Give a session its title by the model, if it still wants one.

        Raises:
            JobFailedError: The model has none to offer.
        """
        thread_id = job.payload["thread_id"]
        try:
            session = await sessions.get(self._db, thread_id, access=EVERYTHING)
        except NotFoundError:
            return
        if session.metadata.get("name") or session.metadata.get(SOURCE) == "model":
            return
        said = await self._said(thread_id)
        if not said or self._model is None:
            return
        title = await self._made(said, job.payload.get("language"))
        await sessions.set_title(self._db, thread_id, title)

    async def renew(self, session_id: str, language: str | None, *, access: Access) -> Session:
        """
        Give a session a new title now, in place of the name that it has: one that it is given meanwhile stays.

        Raises:
            NotFoundError: There is no such session that is visible.
            ConflictError: Nothing was said in it.
            RunFailedError: The model failed.
        """
        session = await sessions.get(self._db, session_id, access=access)
        said = await self._said(session_id)
        if not said:
            raise ConflictError(f"Nothing was said in session {session_id}", code="no_messages")
        title, source = shortened(said[0].content), "first_words"
        if self._model is not None:
            try:
                title, source = await self._made(said, language), "model"
            except JobFailedError as exc:
                raise RunFailedError("The model gave no title", code="model_error") from exc
        return await self._replace(session, {TITLE: title, SOURCE: source}, access)

    async def _replace(self, session: Session, changes: JsonObject, access: Access) -> Session:
        """Change a title; the session loses its name, unless that is another one by now."""
        name = session.metadata.get("name")
        for _ in range(ATTEMPTS):
            if session.metadata.get("name") != name:
                break
            with suppress(ChangedError):
                return await sessions.update(
                    self._db, session.id, changes=changes, removed=["name"],
                    etags=[session.etag], touches=False, access=access,
                )  # fmt: skip
            session = await sessions.get(self._db, session.id, access=access)
        return await sessions.update(
            self._db, session.id, changes=changes, touches=False, access=access
        )

    async def _said(self, session_id: str) -> list[Message]:
        """The first thing that a user said, and the first answer, if there is one."""
        page, _ = await messages.list_page(self._db, session_id, limit=LOOK_AT_MESSAGES)
        told = [message for message in page if message.content.strip()]
        asked = next((message for message in told if message.role == "user"), None)
        answered = next((message for message in told if message.role == "assistant"), None)
        return [message for message in (asked, answered) if message] if asked else []

    async def _made(self, said: Sequence[Message], language: str | None) -> str:
        prompt = [SystemMessage(PROMPT.format(language=_named(language, said[0].content)))]
        shown = "\n\n".join(f"{m.role}: {m.content[:LOOK_AT_CHARACTERS]}" for m in said)

        async def ask(backing: Backing) -> Any:
            model = self._model() if self._model else None
            if model is None:
                raise JobFailedError("there is no model any more", for_good=True)
            return await model.ainvoke([*prompt, HumanMessage(shown)])

        try:
            async with asyncio.timeout(MODEL_SECONDS):
                answer = await self._place.run(ask)
        except JobFailedError:
            raise
        except Exception as exc:
            # Whatever the client of a model raises; its words may hold a key.
            raise JobFailedError(f"the model failed: {type(exc).__name__}") from exc
        title = _cleaned(str(answer.text))
        if not title:
            raise JobFailedError("the model gave no title")
        return title


def _named(language: str | None, text: str) -> str:
    """A language as the model is told it: the one that is preferred, else that of a text."""
    code = language or next((code for code, script in _SCRIPTS if script.search(text)), None)
    if code is None:
        return "the language of its first message"
    return _LANGUAGES.get(code, f"the language with the code {code}")


def _cleaned(answer: str) -> str:
    lines = (line.strip(_AROUND) for line in _THOUGHT.sub("", answer).splitlines())
    line = next((line for line in lines if line), "")
    return shortened(_LABEL.sub("", line, count=1).strip(_AROUND))
