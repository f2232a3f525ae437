"""Chats of the AI SDK (`useChat`): its default transport, unchanged."""

from fastapi import APIRouter, Response

from api.deps import CallerDep, ServicesDep
from api.doors.ai_sdk import HEADERS, UIChat, UIMessageStream
from api.doors.conversation import begin, in_flight, owner
from api.http.bodies import JsonRoute
from api.schemas.common import Text
from api.sse import stream_of_run

router = APIRouter(prefix="/api/ai/chat", tags=["ai sdk"], route_class=JsonRoute)


@router.post("")
async def send_chat(body: UIChat, caller: CallerDep, services: ServicesDep) -> Response:
    """Answer a chat: what is new of its messages, or again, or what its graph asked."""
    asked = body.asked(owner(caller))
    submitted = await begin(services, caller, asked)
    stream = UIMessageStream(services, submitted, continues=bool(asked.answers))
    return stream_of_run(services, caller, submitted, stream.frames(), headers=HEADERS)


@router.get("/{chat_id}/stream")
async def resume_chat(chat_id: Text, caller: CallerDep, services: ServicesDep) -> Response:
    """Stream the answer that is under way from its beginning; 204 if there is none."""
    submitted = await in_flight(services, caller, chat_id)
    if submitted is None:
        return Response(status_code=204)
    stream = UIMessageStream(services, submitted)
    return stream_of_run(services, caller, submitted, stream.frames(), headers=HEADERS)
