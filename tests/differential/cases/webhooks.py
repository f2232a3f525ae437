"""Which webhooks are refused, §3.8 of the contract; what is sent is tested with a receiver of ours."""

from tests.differential.registry import on_a_thread, single

RUN = {"assistant_id": "steps", "input": {"text": "x"}}
REFUSED = {
    "to loopback": "http://127.0.0.1:9/hook",
    "to localhost": "http://localhost:9/hook",
    "to loopback of IPv6": "http://[::1]:9/hook",
    "to an address of the link": "http://169.254.169.254/latest/meta-data",
    "to no address": "http://0.0.0.0:9/hook",
    "to a decimal address": "http://2130706433/hook",
    "to loopback mapped into IPv6": "http://[::ffff:127.0.0.1]:9/hook",
    "by FTP": "ftp://files.example/hook",
    "to a file": "file:///etc/passwd",
    "to a path of the server": "/hook",
    "to nothing": "",
    "to a word": "nope",
    "to a host without a name": "http:///hook",
    "to a port beyond all": "http://127.0.0.1:99999/hook",
}
on_a_thread(
    __name__,
    {
        f"a webhook {what} is refused": (
            "POST",
            "/threads/{thread}/runs",
            {**RUN, "webhook": webhook},
        )
        for what, webhook in REFUSED.items()
    },
)
single(
    __name__,
    {
        "a webhook of a stateless run to loopback": (
            "POST",
            "/runs/wait",
            {**RUN, "webhook": "http://127.0.0.1:9/hook"},
        ),
        "a webhook of a cron to loopback": (
            "POST",
            "/runs/crons",
            {**RUN, "schedule": "0 0 29 2 *", "webhook": "http://127.0.0.1:9/hook"},
        ),
    },
)
