import os

__version__ = "0.1.0"

# LangGraph reads it when it is imported: only types that a graph's state declares are decoded from
# checkpoints, so that who can write to the database cannot run code here (GHSA-g48c-2wqr-h844).
os.environ.setdefault("LANGGRAPH_STRICT_MSGPACK", "true")
