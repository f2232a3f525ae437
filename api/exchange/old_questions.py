"""The id of a question that has none: its project gave one to the turn alone."""

from uuid import UUID, uuid5

#: What it is made with.
_QUESTIONS = UUID("f1c3a6c4-9b52-4f83-8f0c-3a5b1d2f6e77")


def question_id(pair_id: str) -> str:
    """The id of the question of a turn, whose own id is its answer's."""
    return str(uuid5(_QUESTIONS, pair_id))
