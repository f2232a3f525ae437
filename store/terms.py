"""
Words: what of a text can be searched for, and how it is written down for PostgreSQL.

One reading of texts, for what is kept in the index, for what is asked, and for where hits are marked. What
is written with spaces becomes words, stemmed as English. What is written without (Chinese, Japanese, and
Korean, whose words take endings) becomes pairs of neighbouring characters: a word of two characters is a
term, and a longer one a phrase of terms. Pure.
"""

import html
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Final, NamedTuple

import snowballstemmer

#: Beyond this many words and characters a message is not looked into: PostgreSQL knows no further
#: places in a text.
MAX_PLACES: Final = 16_000
#: PostgreSQL keeps no more places of a term.
MAX_PLACES_OF_TERM: Final = 255
#: Longer words are cut: nobody looks for the whole of them.
MAX_WORD: Final = 64
#: What stands in a term for the segment of the index that it is in; in no word.
SEGMENT: Final = "§"
#: How long a snippet is, in characters, and how much of that stands before the first hit.
SNIPPET: Final = 160
BEFORE_HIT: Final = 40

#: Scripts without spaces: Thai, Lao, Burmese, Khmer, kana, Han with its extensions, Hangul.
_DENSE: Final = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1100-\u11ff\u3005-\u3007\u3041-\u30ff\u3130-\u318f"
    "\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\uff66-\uff9f"
    "\U00020000-\U0003ffff"
)
_WORD: Final = rf"[^\W_{_DENSE}]+"
_TOKEN: Final = re.compile(rf"(?P<dense>[{_DENSE}]+)|{_WORD}(?:['\u2019]{_WORD})*")
_IS_DENSE: Final = re.compile(rf"[{_DENSE}]")
#: Parts of a question: what is to be found as it stands, and the rest.
_QUOTED: Final = re.compile(r'"([^"]*)"|([^"]+)')
#: English words that are in nearly every sentence: they take a place, and are no terms.
STOP_WORDS: Final = frozenset(
    [
        "a",
        "an",
        "and",
        "are",
        "as",
        "at",
        "be",
        "but",
        "by",
        "for",
        "from",
        "had",
        "has",
        "have",
        "he",
        "her",
        "his",
        "i",
        "if",
        "in",
        "into",
        "is",
        "it",
        "its",
        "me",
        "my",
        "no",
        "not",
        "of",
        "on",
        "or",
        "our",
        "she",
        "so",
        "that",
        "the",
        "their",
        "them",
        "then",
        "there",
        "these",
        "they",
        "this",
        "to",
        "was",
        "we",
        "were",
        "which",
        "will",
        "with",
        "would",
        "you",
        "your",
    ]
)

#: What a term is called in an index.
Name = Callable[[str], str]

_english = snowballstemmer.stemmer("english")


class Term(NamedTuple):
    """
    A term at its place in a text.

    Attributes:
        text: As it is in the index.
        place: Of its word or first character, counted from 1.
        start: Where it begins in the text, in characters.
        end: Where it ends.
    """

    text: str
    place: int
    start: int
    end: int

    @property
    def is_character(self) -> bool:
        """Whether it is one character of a script without spaces: also the first of a pair."""
        return len(self.text) == 1 and _IS_DENSE.match(self.text) is not None


@dataclass(frozen=True, slots=True)
class Query:
    """
    A question: all of its phrases are to be found in one message.

    Attributes:
        phrases: Terms that have to stand as far from one another as in the question.
    """

    phrases: tuple[tuple[Term, ...], ...]

    @property
    def size(self) -> int:
        """How many terms it has."""
        return sum(map(len, self.phrases))

    @property
    def has_places(self) -> bool:
        """Whether it asks for terms that stand beside each other: an index of names alone cannot tell."""
        return any(len(phrase) > 1 for phrase in self.phrases)

    def tsquery(self, *names: Name) -> str:
        """
        As PostgreSQL's ``tsquery``, with `SEGMENT` before each term.

        Args:
            names: How terms are called in the index, if not by themselves: by one of these. Then it is
                asked for all of them, wherever they stand; `contains` tells the rest.
        """
        if not names:
            return " & ".join(map(_phrase, self.phrases))
        texts = dict.fromkeys(term.text for phrase in self.phrases for term in phrase)
        asked = [[f"'{SEGMENT}{name(text)}'" for text in texts] for name in names]
        return " | ".join(f"({' & '.join(one)})" for one in asked)


def read(text: str) -> Iterator[Term]:
    """The terms of a text, in their order, as the index has them."""
    place = 0
    for found in _TOKEN.finditer(text):
        start = found.start()
        if found["dense"] is None:
            place += 1
            word = _normal(found[0])
            if word not in STOP_WORDS:
                yield Term(stem(word[:MAX_WORD]), place, start, found.end())
        else:
            run = found[0]
            # The last character is a term by itself, so that it is found too.
            for at in range(len(run)):
                pair = run[at : at + 2]
                place += 1
                yield Term(pair, place, start + at, start + at + len(pair))
        if place >= MAX_PLACES:
            return


def tsvector(text: str) -> str:
    """A text as PostgreSQL's ``tsvector``, with `SEGMENT` before each term; empty if it has none."""
    places: defaultdict[str, list[str]] = defaultdict(list)
    for term in read(text):
        places[term.text].append(str(min(term.place, MAX_PLACES)))
    return " ".join(
        f"'{SEGMENT}{term}':{','.join(at[:MAX_PLACES_OF_TERM])}" for term, at in places.items()
    )


def named_tsvector(text: str, name: Name) -> str:
    """
    The same with other names, and without places: those would tell a text's form, and how often what is
    in it. One character is a term of its own: what begins with it cannot be told by a name.
    """
    texts = {term.text for term in read(text)}
    texts |= {text[0] for text in texts if len(text) == 2 and _IS_DENSE.match(text)}
    return " ".join(sorted(f"'{SEGMENT}{name(text)}'" for text in texts))


def query(text: str) -> Query:
    """What a question asks for; without phrases, if nothing that could be found."""
    phrases: list[tuple[Term, ...]] = []
    for quoted, plain in _QUOTED.findall(text):
        terms = _asked(quoted or plain)
        phrases.extend([tuple(terms)] if quoted else _runs(terms))
    distinct = {_phrase(phrase): phrase for phrase in phrases if phrase}
    return Query(tuple(distinct.values()))


def contains(text: str, question: Query) -> bool:
    """Whether a text has all the phrases of a question."""
    by_place = {term.place: term for term in read(text)}
    return all(
        any(_end(phrase, term, by_place) is not None for term in by_place.values())
        for phrase in question.phrases
    )


def marks(text: str, question: Query) -> list[tuple[int, int]]:
    """Where in a text the phrases of a question are: from and to, in order, none in another."""
    by_place = {term.place: term for term in read(text)}
    found = []
    for phrase in question.phrases:
        for term in by_place.values():
            end = _end(phrase, term, by_place)
            if end is not None:
                found.append((term.start, end))
    spans: list[tuple[int, int]] = []
    for start, end in sorted(found):
        if spans and start < spans[-1][1]:
            spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
        else:
            spans.append((start, end))
    return spans


def snippet(text: str, question: Query) -> str:
    """
    The part of a text that has most of what was asked for, as HTML.

    Hits are in ``<mark>``; nothing else in it is markup, whatever the text has.
    """
    spans = marks(text, question)
    best = max(spans, key=lambda span: _within(spans, span[0]), default=(0, 0))
    start = max(0, best[0] - BEFORE_HIT)
    if start and (space := text.find(" ", start, best[0])) >= 0:
        start = space + 1
    stop = min(len(text), max(start + SNIPPET, best[1]))
    parts, at = ["…" if start else ""], start
    for begin, end in spans:
        if begin >= start and end <= stop:
            parts += [_plain(text[at:begin]), f"<mark>{_plain(text[begin:end])}</mark>"]
            at = end
    parts += [_plain(text[at:stop]), "…" if stop < len(text) else ""]
    return " ".join("".join(parts).split())


def _plain(text: str) -> str:
    return html.escape(text, quote=False)


@lru_cache(maxsize=1 << 16)
def stem(word: str) -> str:
    """An English word without its ending; and without apostrophes, PostgreSQL's quotes."""
    return str(_english.stemWord(word)).replace("'", "")


def _normal(word: str) -> str:
    """A word as all its spellings are: without case, width and curly apostrophes."""
    if word.isascii():
        return word.lower()
    return unicodedata.normalize("NFKC", word).casefold().replace("\u2019", "'").replace("\\", "")


def _asked(text: str) -> list[Term]:
    """The terms of a question: the last character of a pair is no term of its own."""
    asked: list[Term] = []
    for term in read(text):
        if not (term.is_character and asked and asked[-1].end > term.start):
            asked.append(term)
    return asked


def _runs(terms: Sequence[Term]) -> Iterator[tuple[Term, ...]]:
    """Words each for itself, and pairs that overlap together."""
    run: list[Term] = []
    for term in terms:
        if run and term.start >= run[-1].end:
            yield tuple(run)
            run = []
        run.append(term)
    yield tuple(run)


def _phrase(phrase: Sequence[Term]) -> str:
    parts = [_written(phrase[0])]
    for before, term in pairwise(phrase):
        parts += [f"<{term.place - before.place}>", _written(term)]
    return f"({' '.join(parts)})"


def _written(term: Term) -> str:
    return f"'{SEGMENT}{term.text}'" + (":*" if term.is_character else "")


def _end(phrase: Sequence[Term], first: Term, by_place: dict[int, Term]) -> int | None:
    """Where the phrase ends that begins with this term of a text; None if it does not."""
    end = first.end
    for asked in phrase:
        term = by_place.get(first.place + asked.place - phrase[0].place)
        if term is None or not _is(asked, term):
            return None
        end = term.start + 1 if asked.is_character else term.end
    return end


def _is(asked: Term, term: Term) -> bool:
    return term.text == asked.text or (asked.is_character and term.text.startswith(asked.text))


def _within(spans: Sequence[tuple[int, int]], start: int) -> int:
    return sum(start <= span[0] < start + SNIPPET - BEFORE_HIT for span in spans)
