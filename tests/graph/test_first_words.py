"""What a session is called by what is first said in it."""

from typing import Any

import pytest

from graph.first_words import first_words, preferred_language


@pytest.mark.parametrize(
    ("given", "title"),
    [
        ({"messages": []}, None),
        ({"messages": [{"role": "system", "content": "x"}]}, None),
        ({"messages": [5, None, {}, ["user"], ["user", 5], {"role": "user"}]}, None),
        ({"text": "x"}, None),
        (None, None),
        ("x", None),
        ([], None),
        ({"messages": {"type": "human", "content": "a  b"}}, "a b"),
        ({"messages": [["assistant", "x"], ["human", "y"]]}, "y"),
        ({"messages": "word " * 40}, "word word word word word word word word word…"),
        ({"messages": "字" * 80}, "字" * 49 + "…"),
        ({"messages": "\0\n\t"}, None),
    ],
)
def test_first_words_are_found_in_whatever_a_graph_is_given(given: Any, title: str | None) -> None:
    assert first_words(given) == title


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", None),
        ("*", None),
        ("de", "de"),
        ("zh-Hans-CN;q=0.3, en-US;q=0.9", "en"),
        ("en;q=0", None),
        ("x" * 5000, None),
        ("en;q=abc, fr", "fr"),
    ],
)
def test_a_language_is_preferred_by_a_header(header: str, language: str | None) -> None:
    assert preferred_language(header) == language
