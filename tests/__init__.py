import os

# As in production: langgraph reads it once, when it is first imported.
os.environ.setdefault("LANGGRAPH_STRICT_MSGPACK", "true")
