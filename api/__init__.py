import os
import sys

__version__ = "0.1.0"

# LangGraph reads it when it is imported: only types that a graph's state declares are decoded from
# checkpoints, so that who can write to the database cannot run code here (GHSA-g48c-2wqr-h844).
os.environ.setdefault("LANGGRAPH_STRICT_MSGPACK", "true")
# An application that has us in it may have imported LangGraph before. Graphs tell which types they
# declare if this is true as they are compiled.
if serde := sys.modules.get("langgraph._internal._serde"):
    is_strict = os.environ["LANGGRAPH_STRICT_MSGPACK"].lower() in ("1", "true", "yes")
    vars(serde)["STRICT_MSGPACK_ENABLED"] = is_strict
