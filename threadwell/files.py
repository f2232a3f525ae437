"""
Files in the messages of a graph of yours, as a model understands them.

    from threadwell.files import Inflating

    class Model(Inflating, ChatOpenAI): ...

See docs/files.md.
"""

from graph.attachments import Inflating, inflated, inflating

__all__ = ["Inflating", "inflated", "inflating"]
