"""Files of conversations, as they are read: whatever is in them, nothing but our errors comes of it."""

import contextlib
import io
import json
import struct
import zipfile
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from api.exchange import markdown, native
from api.exchange.archives import is_archive, unpack
from api.exchange.files import Entry, Form, entries
from api.exchange.transcript import Transcript, Utterance, checked
from graph.adoption import message_of
from store.errors import InvalidInputError, TooLargeError

FORMS: list[Form] = [
    "auto", "native", "chatgpt", "openwebui", "openai", "sharegpt", "chatchat-json", "markdown",
]  # fmt: skip
#: What the readers look for, so that what is made up comes to them.
KEYS = st.sampled_from(
    [
        "mapping", "message", "author", "role", "content", "content_type", "parts", "parent",
        "children", "current_node", "chat", "history", "messages", "currentId", "parentId", "id",
        "conversations", "from", "value", "type", "session", "format", "version", "metadata",
        "meta_data", "tool_calls", "function", "arguments", "name", "create_time", "timestamp",
        "query", "response", "data", "conversation_id", "chat_type", "feedback_score",
    ]
)  # fmt: skip
WORDS = st.sampled_from(
    [
        "user", "assistant", "system", "tool", "human", "gpt", "text", "all", "session", "message",
        "threadwell", "a", "b", "",
    ]
)  # fmt: skip
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), WORDS, st.text(max_size=8),
    st.floats(allow_nan=False, allow_infinity=False),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.one_of(KEYS, WORDS), inner, max_size=6)
    ),
    max_leaves=40,
)
QUICK = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def read(content: bytes, form: Form = "auto") -> list[Entry]:
    return list(entries(io.BytesIO(content), form))


def conversations(found: list[Entry]) -> list[Transcript]:
    """Those that could be read, which all hold together."""
    for entry in found:
        if entry.transcript is not None:
            stretches, _ = entry.transcript.stretches()
            for message in (message for stretch in stretches for message in stretch.messages):
                with contextlib.suppress(InvalidInputError):
                    message_of(message)
            assert len(entry.transcript.line) <= len(entry.transcript.utterances)
        else:
            assert isinstance(entry.fault, InvalidInputError | TooLargeError)
    return [entry.transcript for entry in found if entry.transcript]


#: What LangChain takes for calls of tools that are none.
NO_CALLS = {
    "format": "threadwell", "version": 1, "session": {},
    "messages": [
        {"id": "a", "role": "assistant", "content": "x", "meta_data": {"tool_calls": ["x"]}},
        {"id": "b", "role": "assistant", "content": "x", "meta_data": {"invalid_tool_calls": [1]}},
    ],
}  # fmt: skip


@QUICK
@given(VALUES, st.sampled_from(FORMS))
@example(NO_CALLS, "native")
def test_no_json_leads_to_anything_but_our_errors(value: Any, form: Form) -> None:
    content = json.dumps(value).encode()

    found = read(content, form)

    conversations(found)
    assert found
    assert [entry.number for entry in found] == list(range(len(found)))


@QUICK
@given(st.binary(max_size=200), st.sampled_from(FORMS))
def test_no_bytes_lead_to_anything_but_our_errors(content: bytes, form: Form) -> None:
    conversations(read(content, form))
    conversations(read(b"[" + content, form))
    conversations(read(b"# User\n" + content, form))
    conversations(read(f"{markdown.SESSION}{{}} -->\n".encode() + content, form))


#: What PostgreSQL, and so a session, can hold.
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40).map(
    lambda text: text.replace("\ufeff", "")
)
ROLES = st.sampled_from(["user", "assistant", "system", "tool"])
MARKS = st.sampled_from(
    ["<!-- threadwell:message {} -->", "\\<!-- threadwell:session", "## User", "\n\n", "-->", "\r"]
)
CONTENTS = st.lists(st.one_of(TEXTS, MARKS), max_size=4).map("\n".join)


@QUICK
@given(TEXTS.filter(str.strip), st.lists(st.tuples(ROLES, CONTENTS), min_size=1, max_size=6))
def test_our_own_forms_bring_back_what_they_took(name: str, said: list[tuple[str, str]]) -> None:
    about = native.session_line({"id": "s", "name": name, "metadata": {"note": name + "--"}})
    messages = [
        {"id": f"m{n}", "parent_id": f"m{n - 1}" if n else None, "role": role, "content": content}
        for n, (role, content) in enumerate(said)
    ]
    document = {
        "format": native.FORMAT, "version": native.VERSION, "session": about, "messages": messages
    }  # fmt: skip
    lines = [about, *({"type": "message", **message} for message in messages)]
    page = markdown.session_head(about, name) + "".join(
        markdown.message_part(
            {key: value for key, value in m.items() if key != "content"},
            m["role"] or "",
            m["content"] or "",
        )
        for m in messages
    )
    files = [
        json.dumps(document), json.dumps([document]),
        "\n".join(json.dumps(line) for line in lines), page,
    ]  # fmt: skip

    for file in files:
        [transcript] = conversations(read(file.encode()))
        assert transcript.id == "s"
        assert transcript.attributes["metadata"] == {"note": name + "--"}
        assert [(one.role, one.content) for one in transcript.line] == said


TREES = st.lists(st.integers(0, 20), min_size=1, max_size=20)


@QUICK
@given(TREES, st.integers(0, 20))
def test_the_stretches_of_a_tree_are_all_of_it_and_end_where_it_is_shown(
    parents: list[int], shown: int
) -> None:
    said = [
        Utterance(
            id=str(number),
            parent_id=None if parent >= number else str(parent),
            role="user",
            content=f"{number}",
        )
        for number, parent in enumerate(parents)
    ]
    utterances, head = checked(reversed(said), str(shown % len(said)))
    transcript = Transcript(form="native", id=None, attributes={}, utterances=utterances, head=head)

    stretches, place = transcript.stretches()

    def path(at: int | None) -> list[str]:
        if at is None:
            return []
        return [*path(stretches[at].after), *(m["id"] for m in stretches[at].messages)]

    assert sorted(m["id"] for one in stretches for m in one.messages) == sorted(
        one.id for one in said
    )
    assert path(place) == [one.id for one in transcript.line]
    assert all(one.after is None or one.after < n for n, one in enumerate(stretches))
    # Only the first begins the history: the others would follow what is newest.
    assert [n for n, one in enumerate(stretches) if one.after is None] == [0]


def test_what_is_beyond_a_bound_is_passed_over() -> None:
    good = {"messages": [{"role": "user", "content": "hi"}]}
    many = {"messages": [{"role": "user", "content": "x"}] * 10_001}
    large = {"messages": [{"role": "user", "content": "x" * (18 * 2**20)}]}
    tree = {
        "mapping": {
            str(n): {
                "parent": "0" if n else None,
                "message": {
                    "author": {"role": "user"},
                    "content": {"content_type": "text", "parts": ["x"]},
                },
            }
            for n in range(600)
        }
    }

    found = read(json.dumps([good, many, good]).encode())
    assert [entry.fault is None for entry in found] == [True, False, True]
    [entry] = read(json.dumps(large).encode())
    assert isinstance(entry.fault, TooLargeError)
    [entry] = read(json.dumps(tree).encode())
    assert entry.transcript is not None
    with pytest.raises(InvalidInputError, match="500 times"):
        entry.transcript.stretches()
    # Each turn is a state that has all that was said up to it.
    turns = [Utterance(id="a", parent_id=None, role="user", content="x" * 4 * 2**20)]
    turns += [Utterance(id=f"b{n}", parent_id="a", role="user", content="b") for n in range(200)]
    with pytest.raises(TooLargeError, match="turns"):
        Transcript(form="x", id=None, attributes={}, utterances=turns, head="a").stretches()
    few = Transcript(form="x", id=None, attributes={}, utterances=turns[:100], head="a")
    assert len(few.stretches()[0]) == 100


def test_a_message_of_markdown_is_bounded_however_short_its_lines_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(markdown, "MAX_BYTES", 100)
    begin = markdown.session_head({"id": "a"}, "Long")
    short = markdown.message_part({"id": "m", "role": "user"}, "user", "word\n" * 15)
    long = markdown.message_part({"id": "m", "role": "user"}, "user", "word\n" * 25)

    [whole] = read((begin + short + short.replace('"m"', '"n"')).encode())
    [cut] = read((begin + long).encode())

    assert whole.fault is None
    assert isinstance(cut.fault, TooLargeError)


@pytest.mark.parametrize("odd", [[], [1], {}, {"a": 1}, 5])
def test_a_turn_with_an_odd_conversation_ends_nothing_but_itself(odd: Any) -> None:
    turns = [
        {"id": f"{n}", "query": "a", "response": "b", "conversation_id": id_}
        for n, id_ in enumerate(("x", odd, "y"))
    ]

    found = read(json.dumps(turns).encode())

    assert [entry.fault is None for entry in found] == [True, False, True]
    assert isinstance(found[1].fault, InvalidInputError)


def archive(files: dict[str, bytes]) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return written.getvalue()


def unpacked(content: bytes, max_bytes: int = 2**20) -> bytes:
    into = io.BytesIO()
    assert is_archive(io.BytesIO(content))
    assert unpack(io.BytesIO(content), into, max_bytes=max_bytes) + 1 <= len(into.getvalue())
    return into.read()


def test_an_archive_of_chatgpt_is_read_as_what_is_in_it() -> None:
    said = [{"messages": [{"role": "user", "content": f"question {n}"}]} for n in range(3)]
    parts = [json.dumps(said[:2]).encode(), json.dumps(said[2:]).encode()]
    picture = {"pictures/a.png": b"x", "pictures/deep/conversations.json": b"not this one"}

    one = unpacked(archive({**picture, "conversations.json": parts[0]}))
    many = unpacked(
        archive({"e/conversations-000.json": parts[0], "e/conversations-001.json": parts[1]})
    )

    assert [len(conversations(read(content))) for content in (one, many)] == [2, 3]


def test_an_archive_is_unpacked_within_bounds_whatever_it_says_of_itself() -> None:
    bomb = archive({"conversations.json": b"[" + b" " * 2**24})
    assert len(bomb) < 2**15
    with pytest.raises(TooLargeError):
        unpacked(bomb)
    # Its headers say that there is a byte in it: no more is unpacked, or nothing.
    liar = bytearray(archive({"conversations.json": b"[" + b" " * 2**24}))
    place = liar.rfind(b"PK\x01\x02")
    struct.pack_into("<L", liar, place + 24, 1)
    with pytest.raises(InvalidInputError):
        unpacked(bytes(liar))
    many = archive({f"{n:0100}": b"" for n in range(35_000)})
    with pytest.raises(TooLargeError):
        unpacked(many)
    with pytest.raises(TooLargeError):
        unpacked(another_record(archive({"conversations.json": b"[]"}), 2**28))


def another_record(content: bytes, list_bytes: int) -> bytes:
    """An archive with the record of large ones before its last one, which says something else."""
    place = len(content) - 22
    record = struct.pack(
        "<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, list_bytes, place - list_bytes % place
    )
    return (
        content[:place]
        + record
        + struct.pack("<4sLQL", b"PK\x06\x07", 0, place, 1)
        + content[place:]
    )


def test_an_archive_is_told_to_be_wrong_however_it_is() -> None:
    packed = archive({"conversations.json": b"[]"})
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        written = io.BytesIO()
        with zipfile.ZipFile(written, "w", method) as made:
            made.writestr("conversations.json", b"[]")
        with pytest.raises(InvalidInputError):
            unpacked(written.getvalue())
    name = bytearray(packed)
    place = name.rfind(b"PK\x01\x02")
    # A name that is said to be UTF-8, and is none.
    struct.pack_into("<H", name, place + 8, 0x800)
    name[place + 46] = 0xFF
    # A list that begins before the file does.
    before = bytearray(packed)
    struct.pack_into("<L", before, len(before) - 6, 2**31)
    # A file that begins where no file ends.
    beyond = bytearray(packed)
    struct.pack_into("<L", beyond, place + 42, 2**31)
    for content in (name, before, beyond):
        with pytest.raises(InvalidInputError):
            unpacked(bytes(content))


@QUICK
@given(place=st.integers(0, 300), byte=st.integers(0, 255), cut=st.integers(0, 120))
def test_a_damaged_archive_is_refused_or_read(place: int, byte: int, cut: int) -> None:
    content = bytearray(archive({"conversations.json": b'[{"messages": []}]', "b.txt": b"b"}))
    content[place % len(content)] = byte
    content[:4] = b"PK\x03\x04"
    with contextlib.suppress(InvalidInputError, TooLargeError):
        unpacked(bytes(content[: len(content) - cut]))


def test_what_is_no_archive_of_conversations_is_told() -> None:
    for content in (b"PK\x03\x04zip", archive({"other.json": b"[]"})):
        with pytest.raises(InvalidInputError):
            unpacked(content)
