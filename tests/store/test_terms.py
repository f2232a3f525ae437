"""What of a text can be searched for, and where it is in it."""

import pytest

from store import terms


def found(asked: str, text: str) -> list[str]:
    return [text[start:end] for start, end in terms.marks(text, terms.query(asked))]


@pytest.mark.parametrize(
    ("asked", "text", "marked"),
    [
        ("engine", "Search Engines run", ["Engines"]),
        ("running", "it runs, he ran", ["runs"]),
        ("引擎", "一个搜索引擎。", ["引擎"]),
        ("搜索引擎", "搜索引擎不是引擎搜索", ["搜索引擎"]),
        ("擎", "搜索引擎", ["擎"]),
        ("索", "搜索引擎", ["索"]),
        ("全文検索", "PostgreSQLの全文検索", ["全文検索"]),
        ("데이터", "데이터베이스를 찾다", ["데이터"]),
        ("用Python", "我用python写", ["用", "python"]),
        ("DON'T", "I don\u2019t know", ["don\u2019t"]),
        ("\uff21\uff22\uff23", "abc", ["abc"]),
        ('"vector store"', "store of vectors; vector stores", ["vector stores"]),
        ("message_id", "the id of a message", ["id", "message"]),
        ("索擎", "搜索引擎", []),
        ("the", "the end", []),
    ],
)
def test_a_word_is_found_in_each_of_its_forms(asked: str, text: str, marked: list[str]) -> None:
    assert found(asked, text) == marked


def test_what_is_no_word_asks_for_nothing() -> None:
    assert not terms.query("the ' \" \\ % _ :* & |").phrases
    assert terms.query('say "').size == 1


def test_a_snippet_has_most_of_what_was_asked_for_and_no_markup_but_the_marks() -> None:
    text = "engine " + "<b>&amp; " * 60 + "a search engine <script>"
    assert terms.snippet(text, terms.query("search engine")).endswith(
        "a <mark>search</mark> <mark>engine</mark> &lt;script&gt;"
    )
    assert terms.snippet("x" * 500, terms.query("y")) == "x" * terms.SNIPPET + "…"


def test_of_a_long_text_the_beginning_is_read() -> None:
    text = "words " * terms.MAX_PLACES + "unique"
    assert terms.tsvector(text) == f"'§word':{','.join(map(str, range(1, 256)))}"
