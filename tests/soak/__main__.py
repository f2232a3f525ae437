"""
Random faults under random load, then what must hold: `make soak ARGS="--seconds 60 --seed 1"`.

A seed repeats what is done, and about when; the machine decides the rest.
"""

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from pathlib import Path

import httpx

from tests.soak.clients import Client, Ledger
from tests.soak.cluster import Cluster, cipher_of, open_cluster
from tests.soak.invariants import Findings
from tests.soak.turnstile import Turnstile, open_turnstile

CLIENTS = 10
#: How long after the last fault everything has ended, and every client knows it.
SETTLE_SECONDS = 40.0


def main() -> int:
    """Run it; the exit status is 1 if anything was found."""
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of faults (60)")
    parser.add_argument("--seed", type=int, default=1, help="of everything random (1)")
    parser.add_argument(
        "--log", type=Path, help="file for what was done and what the processes print"
    )
    parser.add_argument(
        "--protected", action="store_true", help="with encryption, API keys and limits"
    )
    parser.add_argument("--workers", type=int, default=1, help="beside two servers (1)")
    return asyncio.run(_soak(parser.parse_args()))


async def _soak(options: argparse.Namespace) -> int:
    seconds, seed, log = options.seconds, options.seed, options.log
    ledger = Ledger()
    async with (
        open_turnstile(random.Random(f"{seed} steps")) as turnstile,
        open_cluster(
            random.Random(f"{seed} faults"),
            turnstile,
            protected=options.protected,
            workers=options.workers,
        ) as cluster,
    ):
        begun = cluster.sizes()
        found = await _load(cluster, ledger, seconds, seed)
        cipher = cipher_of(cluster.members[0].variables)
        findings = Findings(ledger, turnstile.visits, cluster.database_url, cipher)
        try:
            found += await _settled(findings, len(cluster.members))
            found += [*findings.of_runs(), *findings.of_order(), *findings.of_steps()]
            found += findings.of_amount(cluster.faults, seconds)
            async with httpx.AsyncClient(
                base_url=cluster.urls[0], timeout=30, headers=_headers(cluster)
            ) as http:
                found += await findings.of_states(http)
            found += [*findings.of_streams(), *findings.of_outputs(), *findings.of_sessions()]
            found += await cluster.checked()
            found += ledger.wrong
            evidence = [*findings.evidence(found), *(cluster.history if found else ())]
        finally:
            findings.close()
        _report(seed, cluster, turnstile, ledger, findings, found)
        sys.stdout.write(f"at first: {begun}\nin the end: {cluster.sizes()}\n")
        sys.stdout.writelines(f"{line}\n" for line in evidence)
        logs = "".join(member.log() for member in cluster.members)
    if log:
        await asyncio.to_thread(log.write_text, "\n".join([*found, *cluster.history, logs]))
    return 1 if found else 0


async def _load(cluster: Cluster, ledger: Ledger, seconds: float, seed: int) -> list[str]:
    """Let clients and faults loose for so long; what clients still wait for long after."""
    pool: list[str] = []
    sessions: list[str] = []
    clients = [
        Client(
            random.Random(f"{seed} {number}"),
            cluster.urls,
            ledger,
            pool,
            sessions,
            _headers(cluster),
        )
        for number in range(CLIENTS)
    ]
    acting = [
        asyncio.create_task(client.act(), name=f"client {number}")
        for number, client in enumerate(clients)
    ]
    torment = asyncio.create_task(cluster.torment())
    await asyncio.wait({torment, *acting}, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
    torment.cancel()
    for client in clients:
        client.leaving = True
    await asyncio.wait({torment})
    if not torment.cancelled():
        torment.result()
    done, late = await asyncio.wait(acting, timeout=SETTLE_SECONDS)
    for task in late:
        task.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    for task in done:
        task.result()
    return [f"{task.get_name()} waits for ever" for task in late]


def _headers(cluster: Cluster) -> dict[str, str]:
    return {"x-api-key": cluster.key} if cluster.key else {}


async def _settled(findings: Findings, processes: int) -> list[str]:
    deadline = time.monotonic() + SETTLE_SECONDS
    while (left := findings.unsettled(processes)) and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.2)
    return left


def _report(
    seed: int,
    cluster: Cluster,
    turnstile: Turnstile,
    ledger: Ledger,
    findings: Findings,
    found: list[str],
) -> None:
    ends = Counter(row.status for row in findings.rows.values())
    resumed = Counter((visit.run_id, visit.step) for visit in turnstile.visits)
    lines = [
        f"seed: {seed}",
        f"faults: {dict(cluster.faults)}",
        f"answers: {dict(ledger.statuses)}",
        f"runs: {len(ledger.asked)} acknowledged, {dict(ends)} in the end, "
        f"{findings.lost} lost for good",
        f"milliseconds to take a run in: {_latencies(ledger)}",
        f"steps: {len(turnstile.visits)}, begun again: {sum(resumed.values()) - len(resumed)}",
        f"streams: {len(ledger.followed)} followed over "
        f"{sum(len(seen.connections) for seen in ledger.followed)} connections, "
        f"{sum(len(seen.frames) for seen in ledger.followed)} events; "
        f"outputs: {len(ledger.outputs)}; "
        f"sessions: {len(ledger.answers)} answers, {len(ledger.talks)} streamed",
        *found,
        f"{len(found)} findings",
    ]
    sys.stdout.write("\n".join(lines) + "\n")


def _latencies(ledger: Ledger) -> str:
    """Of the first and of the last quarter of the runs: p50, p95, the longest."""
    asked = sorted(ledger.asked, key=lambda one: one.asked_at)
    quarter = max(1, len(asked) // 4)
    told = []
    for part in (asked[:quarter], asked[-quarter:]):
        took = sorted(1000 * (one.acknowledged_at - one.asked_at) for one in part) or [0.0]
        at = [took[int(share * (len(took) - 1))] for share in (0.5, 0.95, 1)]
        told.append("/".join(f"{ms:.0f}" for ms in at))
    return " then ".join(told)


if __name__ == "__main__":
    sys.exit(main())
