"""What must hold when everything has settled: in SQL, on the wire, and by what clients saw."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import httpx
import psycopg

from store.cipher import CLEAR, Cipher, at
from tests.soak.clients import Followed, Ledger
from tests.soak.graph import ASKING, STEPS
from tests.soak.turnstile import Visit

#: How much later than what comes after it the end of a step may be noticed.
NOTICED_SECONDS = 0.25
#: What happens at least, on a machine that is busy with something else; and how many runs may be struck
#: three times by chance.
SUCCESSES_A_SECOND, FAULTS_A_SECOND = 0.06, 0.06
UNLUCKY, UNLUCKY_A_SECOND = 2, 1 / 300
BEFORE_ASKING = STEPS[: STEPS.index(ASKING)]

#: The last of each that is told of a thread with a finding.
EVIDENCE_ROWS = 40
_THREAD = """
SELECT status, settled_status, epoch, head_checkpoint_id, projected_checkpoint_id FROM thread
WHERE thread_id = %s
"""
_RUNS = f"""
SELECT 'run', run_id, status, attempt, first_epoch, epoch, cancel_action, multitask_strategy,
    kwargs ->> 'durability', started_at, ended_at, error ->> 'error'
FROM run WHERE thread_id = %s ORDER BY seq DESC LIMIT {EVIDENCE_ROWS}
"""
_CHECKPOINTS = f"""
SELECT 'checkpoint', checkpoint_id, parent_checkpoint_id, metadata ->> 'run_id',
    metadata ->> 'run_attempt', metadata ->> 'source', metadata ->> 'step',
    checkpoint -> 'updated_channels', checkpoint -> 'channel_values'
FROM checkpoints WHERE thread_id = %s ORDER BY checkpoint_id DESC LIMIT {EVIDENCE_ROWS}
"""
_WRITES = f"""
SELECT 'write', checkpoint_id, task_id, idx, channel, type, epoch
FROM checkpoint_writes WHERE thread_id = %s
ORDER BY checkpoint_id DESC, task_id, idx LIMIT {EVIDENCE_ROWS}
"""


@dataclass(frozen=True, slots=True)
class Row:
    """A run as PostgreSQL has it."""

    run_id: str
    thread_id: str
    status: str
    error: Any

    @property
    def is_lost(self) -> bool:
        """Three processes were lost with it."""
        return self.status == "error" and self.error["error"] == "WorkerLost"


class Findings:
    """Everything that was found wrong, a line each, by the checks that were called."""

    def __init__(
        self,
        ledger: Ledger,
        visits: list[Visit],
        database_url: str,
        cipher: Cipher = CLEAR,
    ) -> None:
        self._cipher = cipher
        self._ledger = ledger
        self._visits = visits
        self._connection = psycopg.connect(database_url, autocommit=True)
        self.rows: dict[str, Row] = {}
        self._kinds: dict[str, str] = {}

    def close(self) -> None:
        """Let go of PostgreSQL."""
        self._connection.close()

    def unsettled(self, processes: int) -> list[str]:
        """What is still under way, or seems to be: nothing for ever, and so many processes."""
        runs = self._sql(
            "SELECT run_id, status, attempt, worker_id, thread_id FROM run"
            " WHERE status IN ('pending', 'running')"
        )
        threads = self._sql(
            "SELECT thread_id, status FROM thread t WHERE status = 'busy' AND NOT EXISTS ("
            " SELECT FROM run r WHERE r.thread_id = t.thread_id"
            " AND r.status IN ('pending', 'running'))"
        )
        workers = self._sql("SELECT worker_id, pid FROM worker ORDER BY started_at")
        found = [f"run in flight: {row}" for row in runs]
        found += [f"thread busy without a run: {row}" for row in threads]
        return found + ([f"workers: {workers}"] if len(workers) != processes else [])

    def of_runs(self) -> Iterator[str]:
        """Every run that was acknowledged ended as it may."""
        query = "SELECT run_id::text, thread_id, status, error FROM run"
        self.rows = {row[0]: Row(*row) for row in self._sql(query)}
        for row in self.rows.values():
            stopped = row.status == "interrupted" and row.thread_id in self._ledger.stopped
            if row.status != "success" and not row.is_lost and not stopped:
                yield f"run {row.run_id} ended as {row.status}: {row.error}"
        for asked in self._ledger.asked:
            forgotten = self._ledger.deleted | self._ledger.rolled_back
            if asked.is_stateless:
                if asked.run_id in self.rows:
                    yield f"stateless run {asked.run_id} left itself behind"
            elif asked.run_id not in self.rows and asked.thread_id not in forgotten:
                yield f"run {asked.run_id} of {asked.thread_id} is lost"

    def of_amount(self, faults: Counter[str], seconds: float) -> Iterator[str]:
        """Enough has happened for all else to mean something."""
        succeeded = sum(row.status == "success" for row in self.rows.values())
        if succeeded < seconds * SUCCESSES_A_SECOND:
            yield f"only {succeeded} runs succeeded in {seconds:g} seconds"
        struck = faults.total() - faults["SIGCONT"]
        if struck < seconds * FAULTS_A_SECOND:
            yield f"only {struck} faults in {seconds:g} seconds"
        # Whoever is not hunted is seldom struck three times.
        if self.lost > faults["hunt"] + UNLUCKY + seconds * UNLUCKY_A_SECOND:
            yield f"{self.lost} runs were given up, and {faults['hunt']} were hunted"

    @property
    def lost(self) -> int:
        """How many runs ended because their processes were lost too often."""
        return sum(row.is_lost for row in self.rows.values())

    def of_order(self) -> Iterator[str]:
        """One at a time, in order: by the database and by the steps themselves."""
        query = (
            "SELECT thread_id, run_id::text FROM run WHERE started_at IS NOT NULL"
            " ORDER BY thread_id, {}"
        )
        due, started = (
            self._sql(query.format(o)) for o in ("not_before, seq", "started_at, not_before, seq")
        )
        for one, other in zip(due, started, strict=True):
            if one != other:
                yield f"not first in, first out: {one} was due when {other} started"
        for visits in self._by_thread():
            for pair in self._overlaps(visits):
                yield f"overlap: {pair}"
            yield from self._overtaking(visits)

    def _by_thread(self) -> list[list[Visit]]:
        threads: dict[str, list[Visit]] = defaultdict(list)
        for visit in self._visits:
            if not visit.is_late:
                threads[visit.thread_id].append(visit)
        return list(threads.values())

    @staticmethod
    def _overlaps(visits: list[Visit]) -> Iterator[tuple[Visit, Visit]]:
        for number, one in enumerate(visits):
            for other in visits[number + 1 :]:
                if other.arrived_at < one.left_at - NOTICED_SECONDS:
                    yield one, other

    def _overtaking(self, visits: list[Visit]) -> Iterator[str]:
        first = {visit.run_id: visit.arrived_at for visit in reversed(visits)}
        asked = [
            asked
            for asked in self._ledger.asked
            if asked.run_id in first and "after_seconds" not in asked.body
        ]
        for one in asked:
            for other in asked:
                if one.acknowledged_at < other.asked_at and first[other.run_id] < first[one.run_id]:
                    yield f"{other.run_id} overtook {one.run_id} on {one.thread_id}"

    def of_steps(self) -> Iterator[str]:
        """No step that was completed runs again, where the checkpoints are synchronous."""
        steps: dict[str, list[Visit]] = defaultdict(list)
        for visit in self._visits:
            if not visit.is_late:
                steps[visit.run_id].append(visit)
        asked = (one for one in self._ledger.asked if not one.is_stateless)
        sync = {one.run_id for one in asked if one.body["durability"] == "sync"}
        for run_id, visits in steps.items():
            places = [STEPS.index(visit.step) for visit in visits]
            if run_id in sync and places != sorted(places):
                yield f"run {run_id}: a step ran again: {visits}"

    async def of_states(self, http: httpx.AsyncClient) -> list[str]:
        """The state of each thread is what its runs did, and its messages are the table's."""
        found: list[str] = []
        for (thread_id,) in self._sql("SELECT thread_id FROM thread ORDER BY 1"):
            answer = await http.get(f"/threads/{thread_id}/state")
            if answer.status_code != 200:
                found.append(f"state of {thread_id}: {answer.status_code} {answer.text}")
                continue
            values = answer.json()["values"] or {}
            found += self._of_log(thread_id, values.get("log", []))
            if checkpoint := answer.json()["checkpoint"]:
                found += await self._of_messages(http, thread_id, checkpoint["checkpoint_id"])
        orphans = self._sql(
            "SELECT DISTINCT thread_id FROM checkpoints c WHERE NOT EXISTS"
            " (SELECT FROM thread t WHERE t.thread_id = c.thread_id)"
        )
        return [*found, *(f"checkpoints of a thread that is gone: {row}" for row in orphans)]

    async def _of_messages(
        self, http: httpx.AsyncClient, thread_id: str, checkpoint_id: str
    ) -> list[str]:
        """The table is what the newest checkpoint has: docs/decisions/0007."""
        state = (await http.get(f"/threads/{thread_id}/state/{checkpoint_id}")).json()
        head = [(one["id"], one["content"]) for one in (state["values"] or {}).get("messages", [])]
        rows = self._sql(
            "SELECT id, content FROM message WHERE conversation_id = %s AND in_context"
            " ORDER BY position",
            thread_id,
        )
        table = [
            (id_, self._cipher.open_text(content, at("message.content", thread_id, id_)))
            for id_, content in rows
        ]
        if table == head:
            return []
        about = {key: state[key] for key in ("checkpoint", "metadata", "next")}
        return [f"thread {thread_id}: table {table} is not the head {head}: {about}"]

    def _of_log(self, thread_id: str, log: list[str]) -> Iterator[str]:
        done: dict[str, list[str]] = defaultdict(list)
        for run_id, step in (entry.split(":") for entry in log):
            done[run_id].append(step)
        for run_id, steps in done.items():
            # One that nobody was told of may have been an answer.
            begun = STEPS.index(steps[0]) if self._kind(run_id) in ("answer", "") else 0
            if tuple(steps) != STEPS[begun : begun + len(steps)]:
                yield f"thread {thread_id}: run {run_id} did {steps}"
            if run_id not in self.rows:
                yield f"thread {thread_id}: run {run_id} is gone and left {steps}"
        runs = [entry.split(":")[0] for entry in log]
        if sum(one != other for one, other in pairwise(runs)) >= len(done) > 0:
            yield f"thread {thread_id}: runs are mixed: {log}"
        for row in self.rows.values():
            whole = self.is_whole(row.run_id, done[row.run_id])
            if row.thread_id == thread_id and row.status == "success" and not whole:
                seen = [visit.step for visit in self._visits if visit.run_id == row.run_id]
                kind = self._kind(row.run_id) or "of a kind that nobody knows"
                yield (
                    f"thread {thread_id}: run {row.run_id} ({kind}) succeeded with"
                    f" {done[row.run_id]} and was at {seen}"
                )

    def _kind(self, run_id: str) -> str:
        if not self._kinds:
            self._kinds = {asked.run_id: asked.kind for asked in self._ledger.asked}
        # One that nobody was told of, or a session's.
        return self._kinds.get(run_id, "")

    def is_whole(self, run_id: str, steps: list[str]) -> bool:
        """Whether a run that succeeded did all that it was to do."""
        kind, done = self._kind(run_id), tuple(steps)
        if kind == "go":
            return done == STEPS
        if kind == "ask":
            return done == BEFORE_ASKING
        # Who answers does what was left to be done, which may be nothing; and asks, where a run that
        # asks was stopped before it came to that.
        last = next((v.step for v in reversed(self._visits) if v.run_id == run_id), "")
        if last == ASKING and done and done == BEFORE_ASKING[-len(done) :]:
            return True
        return done == STEPS[len(STEPS) - len(done) :]

    def of_streams(self) -> Iterator[str]:
        """Whoever followed a run saw each event once, in order, none missing, and the end."""
        for seen in self._ledger.followed:
            # A stateless run is gone when it has ended.
            forgotten = {"", *self._ledger.deleted, *self._ledger.rolled_back}
            gone = seen.thread_id in forgotten
            if not seen.ended and not (seen.missing and gone):
                yield f"run {seen.run_id}: a follower saw no end: {_told(seen)}"
            for complaint in _holes(seen):
                yield f"run {seen.run_id}: {complaint}: {_told(seen)}"
            end = next((frame.data for frame in seen.frames if frame.name == "end"), None)
            row = self.rows.get(seen.run_id)
            if end and row and end["status"] != row.status:
                yield f"run {seen.run_id}: ended as {end}, and is {row.status}: {_told(seen)}"

    def of_outputs(self) -> Iterator[str]:
        """Who waited for a run that succeeded got what it did."""
        for asked, output in self._ledger.outputs:
            row = self.rows.get(asked.run_id)
            succeeded = row is not None and row.status == "success"
            # A stateless run is gone once it has ended: who comes later gets nothing, or an error.
            told = asked.is_stateless and output and "__error__" not in output
            if not succeeded and not told:
                continue
            log = (output or {}).get("log", [])
            done = [e.split(":")[1] for e in log if e.startswith(asked.run_id)]
            if not self.is_whole(asked.run_id, done):
                yield f"run {asked.run_id}: who waited got {output}"

    def of_sessions(self) -> Iterator[str]:
        """Whose question was answered got the whole answer, once."""
        for answer in self._ledger.answers:
            if answer["status"] == "success" and answer["response"] != f"{answer['run_id']}:c":
                yield f"a session answered {answer}"
        for told in self._ledger.talks:
            run_id = told[0][1].get("run_id")
            # The last step of an attempt that was lost may be told again by the next.
            said = list(dict.fromkeys(d["content"] for name, d in told if name == "message.end"))
            end = [data["status"] for name, data in told if name == "run.end"]
            if end == ["success"] and said != [f"{run_id}:{step}" for step in STEPS]:
                yield f"a session streamed {told}"

    def evidence(self, found: list[str]) -> Iterator[str]:
        """What is known of the threads that the findings name: a fault comes back seldom."""
        # A thread that is gone has its visits still.
        kept = {thread_id for (thread_id,) in self._sql("SELECT thread_id FROM thread")}
        for thread_id in sorted(kept | {visit.thread_id for visit in self._visits}):
            if not any(thread_id in finding for finding in found):
                continue
            yield f"--- {thread_id}: {self._sql(_THREAD, thread_id)}"
            for query in (_RUNS, _CHECKPOINTS, _WRITES):
                yield from (" ".join(map(str, row)) for row in self._sql(query, thread_id))
            visits = [visit for visit in self._visits if visit.thread_id == thread_id]
            yield from map(str, visits[-EVIDENCE_ROWS:])

    def _sql(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return self._connection.execute(query.encode(), parameters).fetchall()


def _holes(seen: Followed) -> Iterator[str]:
    last = (0, 0)
    excused = False
    for frame in seen.frames:
        is_gap = frame.name == "metadata" and frame.data.get("status") == "gap"
        if not frame.id or is_gap:
            # That something is missing is said; an end without an id follows it, or live events.
            excused = excused or frame.name == "metadata"
            continue
        epoch, seq = frame.place
        follows = (epoch, seq) == (last[0], last[1] + 1) or (epoch > last[0] and seq == 1)
        # A snapshot may stand in for a lost end only: then it has the place of what was before it.
        if (epoch, seq) < last or ((epoch, seq) == last and not excused):
            yield f"{frame.id} came after {last}"
        elif not follows and not excused:
            yield f"a hole between {last} and {frame.id}"
        last, excused = (epoch, seq), False


def _told(seen: Followed) -> str:
    frames = " ".join(f"{frame.name}[{frame.id}]" for frame in seen.frames)
    return f"{frames} over {seen.connections}"
