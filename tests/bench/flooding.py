"""
A tenant who asks again at once, whatever the answer was: `python -m tests.bench.flooding URL GRAPH CLIENTS`.

Prints a line with the first answer and, when it is told to stop, how many runs it was given and how
often it was refused.
"""

import asyncio
import json
import signal
import sys
from urllib.parse import urlsplit


async def ask(url: str, who: str, graph: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A request for a run of somebody's, on a connection of its own."""
    content = json.dumps(
        {
            "assistant_id": graph,
            "input": {"messages": [{"role": "user", "content": "hi"}]},
            "stream_mode": "custom",
        }
    ).encode()
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    head = (
        "POST /runs/stream HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
        f"authorization: Bearer {who}\r\ncontent-length: {len(content)}\r\n\r\n"
    )
    writer.write(head.encode() + content)
    return reader, writer


async def flood(url: str, graph: str, clients: int) -> None:
    """Ask until it is told to stop."""
    given = [0, 0]
    leave = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, leave.set)

    async def again() -> None:
        while True:
            reader, writer = await ask(url, "flood", graph)
            is_refused = b" 200 " not in await reader.readline()
            given[is_refused] += 1
            if sum(given) == 1:
                print("begun", flush=True)
            await reader.read()
            writer.close()

    asking = [asyncio.create_task(again()) for _ in range(clients)]
    await leave.wait()
    for task in asking:
        task.cancel()
    print(*given, flush=True)


if __name__ == "__main__":
    asyncio.run(flood(sys.argv[1], sys.argv[2], int(sys.argv[3])))
