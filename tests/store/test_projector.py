from langchain_core.messages import AIMessage, HumanMessage

from store.projection import Projector, clean, identified


def human(i: int) -> HumanMessage:
    return HumanMessage(f"text {i}", id=str(i))


def test_of_a_continued_list_only_new_and_changed_messages_are_written() -> None:
    said = [human(i) for i in range(100)]
    projector = Projector("a")
    projector.learn("a", said)

    change = projector.project("a", [*said, human(100)], changed=True)
    assert ([row.id for row in change.upserts], change.places) == (["100"], [])
    projector.committed("b", change)
    said = change.seen.messages  # type: ignore[union-attr]
    said[3] = human(3)
    said[4].content = "changed in place"
    change = projector.project("b", said, changed=True)
    assert ([row.id for row in change.upserts], change.places) == (["3", "4"], [])


def test_any_of_several_loads_of_the_head_may_be_continued() -> None:
    loads = [[human(i) for i in range(10)] for _ in range(3)]
    for load in loads:
        projector = Projector("a")
        for learned in loads:
            projector.learn("a", learned)
        assert projector.project("a", load, changed=True).upserts == []


def test_what_leaves_the_list_is_taken_out_and_the_rest_moves_up() -> None:
    said = [human(i) for i in range(4)]
    projector = Projector("a")
    projector.learn("a", said)

    change = projector.project("a", said[:1] + said[2:], changed=True)

    assert change.upserts == []
    assert sorted(change.places) == [("1", None), ("2", 1), ("3", 2)]


def test_an_unchanged_channel_is_not_even_looked_at() -> None:
    projector = Projector(None)
    assert projector.project(None, [human(0)], changed=False).upserts == []


def test_a_fork_and_an_unknown_list_are_written_whole() -> None:
    said = [human(i) for i in range(3)]
    known = Projector("a")
    known.learn("a", said)
    for projector, parent in ((known, "older"), (Projector("a"), "a")):
        change = projector.project(parent, said, changed=False)
        assert change.reset
        assert len(change.upserts) == 3


def test_a_list_that_changes_after_it_was_projected_changes_nothing() -> None:
    said = [human(0)]
    projector = Projector(None)
    projector.committed("a", projector.project(None, said, changed=True))
    said.append(human(1))

    assert [row.id for row in projector.project("a", said, changed=True).upserts] == ["1"]


def test_equal_messages_without_ids_have_ids_of_their_own_which_trimming_keeps() -> None:
    said = [{"role": "user", "content": "ok"}, {"role": "user", "content": "ok"}]

    ids = list(identified(said))

    assert len(set(ids)) == 2
    assert list(identified(said[1:])) == ids[:1]


def test_of_two_messages_with_one_id_the_later_counts() -> None:
    assert identified([human(1), AIMessage("x", id="1")])["1"][1] == 1


def test_what_is_no_list_of_messages_has_none() -> None:
    for value in (None, "text", {"role": "user"}, 3, [1, "a", {"content": "x"}, ("user", "hi")]):
        assert identified(value) == {}


def test_text_is_made_fit_for_postgresql() -> None:
    assert clean("a\0b \udc80 \ud83d\ude00 你好") == "a\ufffdb \ufffd 😀 你好"
