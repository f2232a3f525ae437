"""A conversation as a file has it, whichever form the file is of; checked, and not yet anybody's."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal, get_args
from uuid import UUID, uuid5

from graph.adoption import Stretch
from store.errors import InvalidInputError, TooLargeError
from store.models import JsonObject
from store.projection import clean, plain_text

Role = Literal["user", "assistant", "system", "tool"]
ROLES: Final = frozenset(get_args(Role))
#: A conversation at the most.
MAX_MESSAGES: Final = 10_000
#: Turns that one took and left: each is a checkpoint.
MAX_TURNS: Final = 500
#: All that is said up to each of its turns, added up: a checkpoint may have the whole of it.
MAX_LINES_BYTES: Final = 512 * 2**20
#: What a value counts that is no text.
_VALUE_BYTES: Final = 32
MAX_ID: Final = 255
_NAMESPACE: Final = UUID("9d0f2c1e-6f0a-4d0b-8e53-52a1c6f0b7d4")


@dataclass(frozen=True, kw_only=True, slots=True)
class Utterance:
    """
    What somebody said.

    Args:
        id: Of the file, or made of what was said; one conversation has it once.
        parent_id: What it was said after; None at the beginning.
        content: Text, or content blocks.
        fields: What else a message of its role has, under LangChain's names.
        is_in_context: Whether the model is to see it.
    """

    id: str
    parent_id: str | None
    role: Role
    content: str | list[Any]
    created_at: datetime | None = None
    fields: JsonObject = field(default_factory=dict)
    is_in_context: bool = True

    def message(self) -> JsonObject:
        """It as `graph.adoption` takes it."""
        made = {**self.fields, "id": self.id, "role": self.role, "content": self.content}
        more = made.get("additional_kwargs")
        # What a file has in its place may be no time.
        kept = (
            {k: v for k, v in more.items() if k != "created_at"} if isinstance(more, dict) else {}
        )
        if self.created_at is not None:
            kept["created_at"] = self.created_at.isoformat()
        if more is not None or kept:
            made["additional_kwargs"] = kept
        return made


@dataclass(frozen=True, kw_only=True, slots=True)
class Transcript:
    """
    A conversation of a file.

    Args:
        form: The form of the file.
        id: Of the file; None if it tells none.
        attributes: Of the session: ``name``, ``status``, ``tags`` and the like.
        utterances: Each after its parent.
        head: The last one of the branch that is shown; None for none.
    """

    form: str
    id: str | None
    attributes: JsonObject
    utterances: Sequence[Utterance]
    head: str | None
    created_at: datetime | None = None
    updated_at: datetime | None = None

    @property
    def line(self) -> list[Utterance]:
        """The branch that is shown, from its beginning."""
        by_id = {said.id: said for said in self.utterances}
        found: list[Utterance] = []
        at = self.head
        while at is not None:
            found.append(by_id[at])
            at = by_id[at].parent_id
        return found[::-1]

    def stretches(self) -> tuple[list[Stretch], int]:
        """
        The conversation by its turns; and which of them the branch that is shown ends with.

        Raises:
            InvalidInputError: It turns more than `MAX_TURNS` times.
            TooLargeError: What is said up to each turn is more than `MAX_LINES_BYTES` in all.
        """
        return _stretches(self.utterances, [said.id for said in self.line])


def checked(
    utterances: Iterable[Utterance], head: str | None
) -> tuple[list[Utterance], str | None]:
    """
    Utterances in an order in which each follows its parent, their own if it is such a one; and the last
    one of the branch that is shown.

    Raises:
        InvalidInputError: They are no conversation: too many, an id twice, a parent that is missing,
            or a circle.
    """
    by_id = _by_id(utterances)
    children: dict[str | None, list[str]] = {}
    for said in by_id.values():
        if said.parent_id is not None and said.parent_id not in by_id:
            raise InvalidInputError(f"Message {said.id!r} follows one that is missing")
        children.setdefault(said.parent_id, []).append(said.id)
    ordered = list(by_id.values())
    place = {said.id: number for number, said in enumerate(ordered)}
    if not all(
        said.parent_id is None or place[said.parent_id] < place[said.id] for said in ordered
    ):
        ordered = _from_the_beginning(by_id, children)
    if len(ordered) != len(by_id):
        raise InvalidInputError("Its messages follow one another in a circle")
    if head not in by_id:
        head = ordered[-1].id if ordered else None
    return ordered, head


def _from_the_beginning(
    by_id: dict[str, Utterance], children: dict[str | None, list[str]]
) -> list[Utterance]:
    """Each after its parent; those of a circle are left out."""
    ordered: list[Utterance] = []
    ahead = children.get(None, [])[::-1]
    while ahead:
        id_ = ahead.pop()
        ordered.append(by_id[id_])
        ahead.extend(reversed(children.get(id_, ())))
    return ordered


def _by_id(utterances: Iterable[Utterance]) -> dict[str, Utterance]:
    by_id: dict[str, Utterance] = {}
    for said in utterances:
        if len(by_id) == MAX_MESSAGES:
            raise InvalidInputError(f"It has more than {MAX_MESSAGES} messages")
        if said.id in by_id:
            raise InvalidInputError(f"Message {said.id!r} occurs twice")
        by_id[said.id] = said
    return by_id


def _stretches(utterances: Sequence[Utterance], line: Sequence[str]) -> tuple[list[Stretch], int]:
    """
    In the order of the utterances, which the history keeps: so a stretch ends where the next one
    follows something else, or where anything but the next one follows.
    """
    following: dict[str | None, list[str]] = {}
    for said in utterances:
        following.setdefault(said.parent_id, []).append(said.id)
    head = line[-1] if line else None
    found: list[Stretch] = []
    # By the last message of each.
    ends: dict[str | None, int | None] = {None: None}
    if len(following.get(None, [])) > 1:
        # They all follow the state before anything was said.
        found.append(Stretch(()))
        ends[None] = 0
    # How much is said up to the end of each, and how much up to where the loop is.
    sizes: dict[int | None, int] = {None: 0, 0: 0} if found else {None: 0}
    size = total = 0
    messages: list[JsonObject] = []
    for number, said in enumerate(utterances):
        if not messages:
            after = ends[said.parent_id]
            size = sizes[after]
        messages.append(said.message())
        size += _size(messages[-1])
        then = utterances[number + 1].id if number + 1 < len(utterances) else None
        if said.id != head and following.get(said.id) == [then]:
            continue
        if len(found) == MAX_TURNS:
            raise InvalidInputError(f"It turns more than {MAX_TURNS} times")
        total += size
        if total > MAX_LINES_BYTES:
            raise TooLargeError(f"Its turns take more than {MAX_LINES_BYTES} bytes")
        ends[said.id] = len(found)
        sizes[len(found)] = size
        found.append(Stretch(messages, after))
        messages = []
    return found, ends[head] or 0


def _size(value: Any) -> int:
    """How much a JSON value is, as `api.exchange.reading` counts."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(len(key) + _size(item) for key, item in value.items())
    return sum(map(_size, value)) if isinstance(value, list) else _VALUE_BYTES


def derived(*parts: object) -> str:
    """An id that is the same whenever it is made of the same."""
    return str(uuid5(_NAMESPACE, "\0".join(str(part) for part in parts)))


def in_a_line(
    session: str, said: Iterable[tuple[Role, str | list[Any], JsonObject, datetime | None]]
) -> list[Utterance]:
    """
    Utterances of a form that has no ids: each gets one of all that was said up to it.

    So a longer file of the same conversation has the same ids, and some more.
    """
    found: list[Utterance] = []
    before: str | None = None
    for role, content, fields, at in said:
        if len(found) == MAX_MESSAGES:
            raise InvalidInputError(f"It has more than {MAX_MESSAGES} messages")
        id_ = derived(session, before or "", role, plain_text(content), len(found))
        found.append(
            Utterance(
                id=id_, parent_id=before, role=role, content=content, created_at=at, fields=fields
            )
        )
        before = id_
    return found


def role_of(value: Any) -> Role:
    """
    Who says something, in our words.

    Raises:
        InvalidInputError: Nobody who is known.
    """
    if value not in ROLES:
        raise InvalidInputError("A message has no role that is known")
    role: Role = value
    return role


def text_of(value: Any, what: str) -> str:
    """
    A text, as it can be kept.

    Raises:
        InvalidInputError: It is none.
    """
    if not isinstance(value, str):
        raise InvalidInputError(f"{what} is no text")
    return clean(value)


def id_of(value: Any, what: str) -> str:
    """
    An id of a file.

    Raises:
        InvalidInputError: It is no text, empty, or too long to be indexed.
    """
    text = text_of(value, what)
    if not text or len(text) > MAX_ID:
        raise InvalidInputError(f"{what} is empty, or longer than {MAX_ID} characters")
    return text


def moment(value: Any) -> datetime | None:
    """A time: seconds, or milliseconds, since 1970, or ISO 8601; None if it is no time."""
    if isinstance(value, str):
        try:
            at = datetime.fromisoformat(value)
        except ValueError:
            return None
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        # PostgreSQL does not read every zone that Python does.
        return at.astimezone(UTC) if 1970 <= at.year < 9999 else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e14:
        return None
    # Beyond the year 5138 in seconds, it is milliseconds.
    return datetime.fromtimestamp(value if value < 1e11 else value / 1000, UTC)


def name_of(value: Any) -> str | None:
    """What a conversation is called, as a session can be."""
    text = clean(value).strip()[:255] if isinstance(value, str) else ""
    return text or None
