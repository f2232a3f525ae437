"""What is sealed opens at its place, by its key, and nowhere else."""

import base64
import os
import threading
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from store.cipher import CLEAR, MARK, SEALED, TEXT_MARK, KeyRing, at, secret_of
from store.errors import InvalidInputError, UnreadableError

OLD, NEW = b"o" * 16, b"n" * 32
RING = KeyRing([NEW])
PLACE = at("message.content", "thread", "id")
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=40, deadline=None)
@given(st.binary())
def test_bytes_open_as_they_were(data: bytes) -> None:
    assert RING.open(RING.seal(data, PLACE), PLACE) == data
    assert RING.open(RING.seal_same(data, PLACE), PLACE) == data
    assert CLEAR.open(CLEAR.seal(data, PLACE), PLACE) == data


@settings(max_examples=40, deadline=None)
@given(VALUES)
def test_documents_open_as_they_were(value: Any) -> None:
    assert RING.open_json(RING.seal_json(value, PLACE), PLACE) == value
    assert RING.open_values(RING.seal_values(value)) == value
    assert CLEAR.open_values(CLEAR.seal_values(value)) == value


def test_nothing_of_a_text_is_seen_when_it_is_sealed() -> None:
    sealed = [
        RING.seal(b"Mnemosyne", PLACE),
        RING.seal_text("Mnemosyne", PLACE).encode(),
        repr(RING.seal_json({"Mnemosyne": "Mnemosyne"}, PLACE)).encode(),
        repr(RING.seal_values({"x": ["Mnemosyne"]})).encode(),
        RING.blind("Mnemosyne", "search"),
    ]
    assert not any(b"Mnemosyne" in s or base64.b64encode(b"Mnemosyne") in s for s in sealed)


def test_sealed_twice_bytes_differ_unless_they_are_to_be_compared() -> None:
    assert RING.seal(b"x", PLACE) != RING.seal(b"x", PLACE)
    assert RING.seal_same(b"x", PLACE) == RING.seal_same(b"x", PLACE)
    assert RING.seal_same(b"x", PLACE) != RING.seal_same(b"x", at("elsewhere"))
    assert RING.seal_text("x", PLACE) == RING.seal_text("x", PLACE)


def test_what_is_moved_elsewhere_does_not_open() -> None:
    other = at("message.content", "thread", "other")
    for move in (
        lambda: RING.open(RING.seal(b"x", PLACE), other),
        lambda: RING.open_text(RING.seal_text("x", PLACE), other),
        lambda: RING.open_json(RING.seal_json({"a": 1}, PLACE), other),
        lambda: RING.open_values({"b": RING.seal_values({"a": "x"})["a"]}),
    ):
        with pytest.raises(UnreadableError):
            move()


@pytest.mark.parametrize("place", range(40))
def test_what_was_changed_by_one_bit_does_not_open(place: int) -> None:
    sealed = bytearray(RING.seal(b"secret", PLACE))
    sealed[place] ^= 1
    with pytest.raises(UnreadableError):
        RING.open(bytes(sealed), PLACE)


@pytest.mark.parametrize(
    "text", ["plain", TEXT_MARK, f"{TEXT_MARK}zz:", f"{TEXT_MARK}00000000:AA", f"{TEXT_MARK}\ud800"]
)
def test_what_is_not_sealed_is_not_read(text: str) -> None:
    with pytest.raises(UnreadableError):
        RING.open_text(text, PLACE)
    with pytest.raises(UnreadableError):
        RING.open_json({"a": text}, PLACE)
    with pytest.raises(UnreadableError):
        RING.open_json({SEALED: text, "a": 1}, PLACE)
    with pytest.raises(UnreadableError):
        RING.open_values({"a": [text]})
    with pytest.raises(UnreadableError):
        RING.open(text.encode("utf-8", "replace"), PLACE)
    with pytest.raises(UnreadableError):
        RING.open(MARK, PLACE)


def test_what_is_in_the_clear_is_read_only_while_a_database_is_being_sealed() -> None:
    ring = KeyRing([NEW], accepts_clear=True)
    assert ring.open(b"plain", PLACE) == b"plain"
    assert ring.open_text("plain", PLACE) == "plain"
    assert ring.open_json({"a": 1}, PLACE) == {"a": 1}
    assert ring.open_values({"a": "plain", "b": ring.seal_values({"b": "x"})["b"]}) == {
        "a": "plain",
        "b": "x",
    }
    assert ring.forms({"a": "x"}) == [ring.seal_values({"a": "x"}), {"a": "x"}]


@pytest.mark.parametrize(
    "value",
    [
        {SEALED: 5}, {SEALED: None, "a": 1}, {SEALED: "x"}, {SEALED: "tw1:"},
        {SEALED: "tw1:00000000:AAAA"}, {SEALED: {"a": "tw1:zz:"}},
    ],
)  # fmt: skip
def test_what_only_looks_sealed_is_in_the_clear(value: Any) -> None:
    ring = KeyRing([NEW], accepts_clear=True)
    assert ring.open_json(value, PLACE) == value
    assert RING.open_json(ring.seal_json(value, PLACE), PLACE) == value
    for text in ("tw1:", "tw1: is what it begins with", "tw1:00000000:AAAA"):
        assert ring.open_text(text, PLACE) == text
        assert ring.open_values({"a": [text]}) == {"a": [text]}
    with pytest.raises(UnreadableError):
        RING.open_json(value, PLACE)
    # After keys were taken out, one that is not known may have been.
    ring.may_lack_keys = True
    with pytest.raises(UnreadableError, match="does not have"):
        ring.open_text("tw1:00000000:AAAA", PLACE)


class _Text(str):
    __slots__ = ()


def test_whatever_is_a_text_once_it_is_kept_is_sealed() -> None:
    id_, at_ = uuid.UUID(int=7), datetime(2026, 11, 26, tzinfo=UTC)
    sealed = RING.seal_values({"a": _Text("x"), "b": id_, "c": [at_], "d": {"e": {1: id_}}, "n": 1})
    texts = [sealed["a"], sealed["b"], sealed["c"][0], sealed["d"]["e"][1]]
    assert all(isinstance(text, str) and text.startswith(TEXT_MARK) for text in texts)
    assert RING.open_values({"b": sealed["b"], "n": sealed["n"]}) == {"b": str(id_), "n": 1}


def test_an_old_key_opens_and_the_newest_seals() -> None:
    before, after = KeyRing([OLD]), KeyRing([NEW, OLD])
    sealed = before.seal(b"x", PLACE)
    assert after.open(sealed, PLACE) == b"x"
    assert not after.is_current(sealed)
    assert after.is_current(after.seal(b"x", PLACE))
    assert not after.is_current(before.seal_text("x", PLACE))
    with pytest.raises(UnreadableError, match="does not have"):
        RING.open(sealed, PLACE)
    assert after.forms({"a": "x"}) == [
        after.seal_values({"a": "x"}),
        before.seal_values({"a": "x"}),
    ]
    assert after.blinds("x", "search") == [after.blind("x", "search"), before.blind("x", "search")]


def test_keys_of_metadata_that_sql_reads_stay_in_the_clear_at_the_top_only() -> None:
    ring = KeyRing([NEW], clear_keys=["org"])
    sealed = ring.seal_values(
        {"graph_id": "agent", "org": "acme", "name": "x", "deep": {"org": "acme"}, "n": 3}
    )
    assert (sealed["graph_id"], sealed["org"], sealed["n"]) == ("agent", "acme", 3)
    assert sealed["name"].startswith(TEXT_MARK)
    assert sealed["deep"]["org"].startswith(TEXT_MARK)
    assert ring.seal_values({"org": "acme"}, ["config"])["org"].startswith(TEXT_MARK)


def test_a_key_may_be_put_in_the_clear_later() -> None:
    sealed = RING.seal_values({"org": ["acme"], "source": f"{TEXT_MARK}by a joker"})
    assert KeyRing([NEW], clear_keys=["org"]).open_values(sealed) == {
        "org": ["acme"],
        "source": f"{TEXT_MARK}by a joker",
    }


def test_what_sql_reads_of_a_document_stays_beside_it_and_is_not_believed() -> None:
    sealed = RING.seal_json({"usage": 3, "text": "x"}, PLACE, shown={"usage": 3})
    assert sealed["usage"] == 3
    assert RING.open_json({**sealed, "usage": 4}, PLACE) == {"usage": 3, "text": "x"}


def test_what_postgresql_cannot_hold_is_refused_or_replaced_as_without_a_key() -> None:
    with pytest.raises(InvalidInputError):
        RING.seal_values({"a": "\ud800"})
    assert RING.open_values(RING.seal_values({"a": "x\0y"})) == {"a": "x\ufffdy"}


def test_no_two_nonces_are_alike_whoever_seals() -> None:
    nonces: list[bytes] = []

    def work() -> None:
        nonces.extend(RING.seal(b"", PLACE)[8:20] for _ in range(2000))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        os.write(write, b"".join(RING.seal(b"", PLACE)[8:20] for _ in range(100)))
        os._exit(0)
    os.waitpid(child, 0)
    told = os.read(read, 1200)
    os.close(read)
    os.close(write)
    nonces.extend(told[at : at + 12] for at in range(0, 1200, 12))
    nonces.extend(RING.seal(b"", PLACE)[8:20] for _ in range(100))
    assert len(set(nonces)) == 8200


@pytest.mark.parametrize("length", [16, 24, 32])
def test_a_key_is_text_or_base64_or_hexadecimal(length: int) -> None:
    secret = bytes(range(100, 100 + length))
    assert secret_of("k" * length) == b"k" * length
    assert secret_of(secret.hex()) == (secret if length != 16 else secret.hex().encode())
    if length == 32:
        assert secret_of(base64.b64encode(secret).decode()) == secret
        assert secret_of(base64.urlsafe_b64encode(b"\xff" * 32).decode()) == b"\xff" * 32


@pytest.mark.parametrize("text", ["", "short", "k" * 17, "é" * 5, "=" * 44])
def test_a_key_of_another_length_is_refused_without_being_told(text: str) -> None:
    with pytest.raises(InvalidInputError) as error:
        secret_of(text)
    assert not text or text not in error.value.message


def test_a_ring_needs_keys_and_each_once() -> None:
    with pytest.raises(InvalidInputError):
        KeyRing([])
    with pytest.raises(InvalidInputError):
        KeyRing([b"short"])
    with pytest.raises(InvalidInputError):
        KeyRing([NEW, NEW])
