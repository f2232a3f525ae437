"""
What code of yours imports of Threadwell; everything beside it is internal, and may change.

threadwell.langchain    an old chain keeps its history in sessions
threadwell.memory       the same for one that still has a memory (extra ``classic``)
threadwell.repository   the functions of Langchain-Chatchat's repositories
threadwell.connection   how these reach a server
threadwell.standalone   or the database alone
threadwell.events       listeners: what happens to sessions calls functions of yours
threadwell.files        files in the messages of a graph of yours
threadwell.mounting     Threadwell inside a FastAPI application of yours
"""

from threadwell import own_packages

# Whatever of it is imported, over HTTP too; `api` is needed by what runs a server in the process.
own_packages.require("graph", "store")
