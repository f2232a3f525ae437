"""
The routes of the projects that Threadwell stands in for: their paths, envelopes and streams.

Thin: what they do is done by the functions behind `/api/sessions`. Off unless `THREADWELL_COMPAT`
names them. docs/existing-project.md says what differs.
"""

from api.compat import accounts, chatchat, conversations, fufan, pairs, unserved

#: By the names of `THREADWELL_COMPAT`.
COMPAT_ROUTERS = {
    "fufan": (
        conversations.router,
        accounts.router,
        fufan.router,
        pairs.router,
        unserved.fufan,
    ),
    "chatchat": (chatchat.router, pairs.router, unserved.chatchat),
}
