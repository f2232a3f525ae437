"""What doors have in common that tell of a run: what is said, and what of it is still to be sent."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from api.bootstrap import Services
from api.session_events import Part
from api.sse import SessionStream
from graph.runs import Submitted
from store.models import JsonObject

#: Between two messages of one answer, where a protocol has room for one only.
SEPARATOR: Final = "\n\n"


class Spoken:
    """
    The texts of a run's answers: streamed, whole, or again after events were lost.

    A message that comes whole is completed by what was not streamed of it; one that has come is not
    told again.
    """

    def __init__(self) -> None:
        self._open: dict[str, str] = {}
        self._whole: set[str] = set()

    def delta(self, part: JsonObject) -> str:
        """A piece of a message; empty of one that is whole already."""
        message_id = str(part["message_id"])
        if message_id in self._whole:
            return ""
        self._open[message_id] = self._open.get(message_id, "") + part["delta"]
        return str(part["delta"])

    def rest(self, part: JsonObject) -> str | None:
        """What is still to be said of a message that is whole; None if it was whole already."""
        message_id, content = str(part["message_id"]), str(part["content"])
        if message_id in self._whole:
            return None
        self._whole.add(message_id)
        said = self._open.pop(message_id, "")
        return content[len(said) :] if content.startswith(said) else ""

    def unfinished(self) -> dict[str, str]:
        """What was said of messages that are not whole, by their ids; they are forgotten."""
        found, self._open = self._open, {}
        return found


class Usage:
    """The tokens of all that was said in a run."""

    def __init__(self) -> None:
        self.input = self.output = 0
        self.is_known = False

    def add(self, part: JsonObject) -> None:
        """Count a message that is whole."""
        usage = part.get("usage")
        if isinstance(usage, dict):
            self.is_known = True
            self.input += usage.get("input_tokens") or 0
            self.output += usage.get("output_tokens") or 0


class Door(SessionStream):
    """
    The session's events in another protocol, each encoded by a method named after it.

    ``message.delta`` by `on_message_delta`, and so on; an event without a method is left out.
    """

    def __init__(self, services: Services, submitted: Submitted) -> None:
        super().__init__(services, submitted)
        self._spoken, self._usage = Spoken(), Usage()

    def objects(self, parts: Sequence[Part]) -> Iterator[JsonObject]:
        """The objects that the protocol has for these events."""
        for name, data in parts:
            encode: Callable[[JsonObject], Iterable[JsonObject]] | None
            encode = getattr(self, f"on_{name.replace('.', '_')}", None)
            if encode is not None:
                yield from encode(data)
