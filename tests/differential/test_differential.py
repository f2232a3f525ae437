"""Our server answers as the reference did when it was recorded, or differs as docs/compatibility.md says."""

import pytest

from tests.acceptance.process import ServerProcess
from tests.differential import differences
from tests.differential.cases import CASES
from tests.differential.recordings import read
from tests.differential.talk import Exchange

RECORDED = read()
MEANT = differences.lines()


@pytest.mark.parametrize("case", CASES)
def test_a_case_goes_as_with_the_reference(
    case: str, answers: dict[str, list[Exchange]], server: ServerProcess
) -> None:
    found = differences.between(RECORDED[case], answers[case])
    if MEANT.get(case) == [differences.VARIES]:
        assert found, f"{case!r} does not differ any more"
    else:
        assert found == MEANT.get(case, []), _told(case, answers[case], server.log)


def _told(case: str, ours: list[Exchange], log: str) -> str:
    shown = differences.between(RECORDED[case], ours, context=3)
    meant = "\n".join(["", "it may differ so, and must:", *MEANT[case]]) if case in MEANT else ""
    printed = f"\nthe server's log ends so:\n{log[-4000:]}"
    return "\n".join([case, *(shown or ["it does not differ any more"]), meant, printed])


def test_every_case_is_recorded_and_no_other() -> None:
    assert set(RECORDED) == set(CASES)


def test_there_are_more_than_200_cases() -> None:
    assert len(CASES) > 200


def test_every_difference_has_a_reason() -> None:
    named = [name for difference in differences.meant() for name in difference.cases]
    assert sorted(named) == sorted(MEANT)
    assert set(named) <= set(CASES)


def test_the_page_lists_the_differences() -> None:
    assert differences.PAGE.read_text() == differences.page(), (
        "docs/compatibility.md is stale: run `python -m tests.differential page`"
    )
