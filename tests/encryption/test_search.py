"""Search over sealed messages: the same is found, by names of terms that say nothing."""

import pytest

from store import terms
from store.cipher import KeyRing
from store.search import _names

TEXT = "The Engines of Analysis: 分析机 can weave algebraical patterns, 机器"
RINGS = [[b"a" * 32], [b"b" * 32, b"a" * 32]]


def test_an_index_says_neither_the_terms_nor_where_they_are() -> None:
    [name] = _names(KeyRing([b"a" * 32]))
    kept = terms.named_tsvector(f"{TEXT} {TEXT}", name)

    assert kept == terms.named_tsvector(TEXT, name)
    assert ":" not in kept
    assert not [term for term in terms.read(TEXT) if len(term.text) > 2 and term.text in kept]
    assert not any(ord(letter) > 127 for letter in kept.replace(terms.SEGMENT, ""))
    # Whoever has other keys finds nothing in it.
    [other] = _names(KeyRing([b"b" * 32]))
    assert not set(kept.split()) & set(terms.named_tsvector(TEXT, other).split())


@pytest.mark.parametrize("ring", RINGS, ids=["one key", "a newer one"])
@pytest.mark.parametrize(
    ("query", "is_found"),
    [
        ("engine", True),
        ("机", True),
        ("分析机", True),
        ('"weave algebraical"', True),
        ('"algebraical weave"', False),
        ("机分析", False),
        ("engine 算", False),
    ],
)
def test_what_is_asked_for_is_found_by_all_keys_and_read(
    ring: list[bytes], query: str, is_found: bool
) -> None:
    kept = set(terms.named_tsvector(TEXT, _names(KeyRing([b"a" * 32]))[0]).split())
    question = terms.query(query)
    asked = question.tsquery(*_names(KeyRing(ring))).split(" | ")

    has_all = any(set(one.strip("()").split(" & ")) <= kept for one in asked)
    assert len(asked) == len(ring)
    assert (has_all and terms.contains(TEXT, question)) == is_found
    # Without places it may have to be read to be known.
    assert has_all == is_found or question.has_places
