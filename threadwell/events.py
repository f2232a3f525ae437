"""
Listeners: functions of yours that are told what happens to sessions, messages and runs.

    from threadwell.events import on

    @on("session.created")
    async def greet(event):
        print(event["data"]["session_id"])

Called while a module is imported that the server imports: one with a graph, or with the application of
``http.app``. See docs/events.md.
"""

from graph.listeners import off, on

__all__ = ["off", "on"]
