"""What `auth` of a langgraph.json may name: whoever says a name is it."""

from langgraph_sdk import Auth

auth = Auth()


@auth.authenticate
async def authenticate(headers: dict[bytes, bytes]) -> str:
    name = headers.get(b"x-name")
    if name is None:
        raise Auth.exceptions.HTTPException(401, "Who is it?")
    return name.decode()
