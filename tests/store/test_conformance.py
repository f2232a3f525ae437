from collections.abc import AsyncIterator
from typing import Any

from langgraph.checkpoint.conformance import checkpointer_test, validate

from store.checkpoints import Saver


async def test_saver_passes_the_public_conformance_suite(saver: Saver) -> None:
    @checkpointer_test(name="Saver")
    async def factory() -> AsyncIterator[Any]:
        yield saver

    report = await validate(factory)

    failures = {name: result.failures for name, result in report.results.items() if result.failures}
    assert failures == {}
    assert report.passed_all_base()
    assert {name for name, result in report.results.items() if result.passed} == {
        "put", "put_writes", "get_tuple", "list", "delete_thread", "delete_for_runs",
        "copy_thread", "prune",
    }  # fmt: skip
