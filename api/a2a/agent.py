"""An assistant whose graph takes messages, as an agent: its card, its tasks, what it is asked to do."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from uuid_utils.compat import uuid7

from api import __version__
from api.a2a import cards, forms
from api.a2a.forms import Address
from api.bootstrap import Services
from api.http.jsonrpc import INTERNAL_ERROR, INVALID_PARAMS, RpcError
from api.identity.auth import Caller
from api.schemas.common import UUID_FORM
from api.sse import output_of
from api.submissions import submit
from graph.factory import InvalidGraphError
from graph.requests import RunRequest, system_assistant_id
from graph.runs import Submitted
from store import assistants, chains, messages
from store.access import EVERYTHING
from store.chains import CONTINUES, Chain
from store.errors import NotFoundError
from store.models import Assistant, JsonObject


@dataclass(frozen=True, slots=True)
class Agent:
    """An assistant, asked by somebody in the words of one generation."""

    services: Services
    caller: Caller
    assistant: Assistant
    url: str
    scope: str
    is_modern: bool = True

    def said(self, content: JsonObject, *, wrapped: bool = False) -> JsonObject:
        """It in the generation's words."""
        return forms.modern(content, wrapped=wrapped) if self.is_modern else content

    async def card(self) -> JsonObject:
        """Its card."""
        authority = self.services.authority
        openapi = authority.openapi if authority else {}
        return cards.card(self.assistant, self.url, __version__, await self.fields(), openapi)

    async def fields(self) -> JsonObject:
        """What its graph takes."""
        registry, graph_id = self.services.registry, self.assistant.graph_id
        try:
            found = await self.services.place.run(
                lambda backing: registry.schemas(graph_id, store=backing.items)
            )
        except InvalidGraphError as exc:
            raise RpcError(INTERNAL_ERROR, exc.message) from exc
        return found["input_schema"] or {}

    async def chain(self, task: Any) -> Chain:
        """
        Find a task of this agent that the caller may see.

        Raises:
            RpcError: There is none of this id.
        """
        if not task:
            raise RpcError(INVALID_PARAMS, "Missing required parameter: id (task_id)")
        address = forms.task_address(task)
        if address is not None:
            access = await self.caller.may("threads", "read", {"thread_id": address[0]})
            with suppress(NotFoundError):
                return await chains.get(
                    self.services.db,
                    address[1],
                    thread_id=address[0],
                    assistant_id=self.assistant.assistant_id,
                    access=access,
                )
        raise RpcError(forms.TASK_NOT_FOUND, "Task not found")

    async def submit(self, asked: forms.Received, *, streams: bool) -> tuple[Submitted, Address]:
        """
        Begin the run that a message asks for.

        Raises:
            RpcError: The task does not take a message, or the graph none of this kind.
        """
        first: str | None = None
        thread_id = asked.context_id
        if asked.task_id is not None:
            chain = await self.chain(asked.task_id)
            if thread_id not in (None, chain.thread_id):
                raise RpcError(forms.TASK_NOT_FOUND, "Task not found")
            _require_asking(chain)
            first, thread_id = chain.first_run_id, chain.thread_id
        elif asked.content and "messages" not in (
            known := (await self.fields()).get("properties", {})
        ):
            raise RpcError(INVALID_PARAMS, self._takes_no_messages(list(known)))
        if thread_id is not None and not UUID_FORM.fullmatch(thread_id.lower()):
            raise RpcError(INVALID_PARAMS, "Invalid context ID: must be a UUID")
        request = RunRequest(
            assistant_id=self.assistant.assistant_id,
            input=forms.graph_input(asked) if first is None else None,
            command=None if first is None else {"resume": asked.answer()},
            metadata={} if first is None else {CONTINUES: first},
            stream_modes=("values", "messages") if streams else ("values",),
            if_not_exists="create",
        )
        submitted = await submit(
            self.services,
            self.caller,
            request,
            thread_id=(thread_id or str(uuid7())).lower(),
            attached=True,
        )
        run = submitted.run
        return submitted, self.address(run.thread_id, first or run.run_id)

    def address(self, thread_id: str, first_run_id: str) -> Address:
        """Where a task is."""
        return Address(forms.task_id(thread_id, first_run_id), thread_id)

    async def outcome(
        self, submitted: Submitted, at: Address
    ) -> tuple[JsonObject, list[JsonObject]]:
        """How a run ended, once it has, and what it made."""
        services, run = self.services, submitted.run
        ended = await services.runs.join(submitted)
        if ended.error is not None:
            text = f"{ended.error['error']}: {ended.error['message']}"
            return forms.status_json(at, "failed", text=text), []
        if ended.status != "success":
            return forms.status_json(at, "canceled", text="Task was canceled"), []
        if ended.interrupted:
            asked = [forms.interrupt_artifact(found.id, found.value) for found in ended.interrupts]
            return forms.status_json(at, "input-required"), asked
        part = await self._response(run.thread_id, run.run_id)
        if part is None:
            part = forms.data_part(await output_of(services, submitted, ended))
        made = forms.response_artifact(run.run_id, self.assistant.assistant_id, part)
        return forms.status_json(at, "completed"), [made]

    async def _response(self, thread_id: str, run_id: str) -> JsonObject | None:
        """What the agent said last in a run."""
        rows = await self.services.follower.patiently(
            lambda: messages.of_run(self.services.db, thread_id, run_id)
        )
        said = [row.content for row in rows if row.role == "assistant" and row.content]
        return forms.text_part(said[-1]) if said else None

    async def task(self, chain: Chain, *, length: int | None, artifacts: bool) -> JsonObject:
        """A task as it stands."""
        at = self.address(chain.thread_id, chain.first_run_id)
        state, text = forms.state_of(chain), None
        if chain.error is not None:
            text = f"{chain.error['error']}: {chain.error['message']}"
        status = forms.status_json(at, state, text=text, when=chain.updated_at)
        made: list[JsonObject] = []
        if artifacts and state == "completed":
            part = await self._response(chain.thread_id, chain.run_id)
            by = self.assistant.assistant_id
            made = [forms.response_artifact(chain.run_id, by, part)] if part else []
        elif artifacts and state == "input-required":
            made = await self._interrupts(chain.thread_id)
        return forms.task_json(at, status, await self.history(at, length), made)

    async def _interrupts(self, thread_id: str) -> list[JsonObject]:
        found = await self.services.states.get(thread_id, access=EVERYTHING)
        return [forms.interrupt_artifact(i["id"], i["value"]) for i in found["interrupts"]]

    async def history(self, at: Address, length: int | None) -> list[JsonObject]:
        """The messages of a task's context, or of the task alone; the last ones if not all."""
        if length == 0:
            return []
        db = self.services.db
        rows = await messages.in_context(db, at.context_id)
        firsts = await chains.firsts(db, sorted({row.run_id for row in rows if row.run_id}))
        found = []
        for row in rows:
            of = self.address(at.context_id, firsts.get(row.run_id or "", row.run_id or ""))
            if self.scope == "task" and of != at:
                continue
            if message := forms.history_message(row, of if row.run_id else at):
                found.append(message)
        return found[-length:] if length else found

    def _takes_no_messages(self, fields: list[str]) -> str:
        return (
            f"Assistant '{self.assistant.assistant_id}' (graph '{self.assistant.graph_id}') does not "
            "support A2A conversational messages. Graph input schema must include a 'messages' field "
            f"to accept text or file parts. Available input fields: {fields}"
        )


async def find(
    services: Services, caller: Caller, name: str, *, base_url: str, scope: str = "context"
) -> Agent:
    """
    Find the agent that a caller names by its graph or its assistant's id.

    Args:
        base_url: Of this server, as the caller knows it.
        scope: ``context`` or ``task``: what the history of a task is of.

    Raises:
        RpcError: There is none that the caller may see, or no such scope.
    """
    if scope not in ("context", "task"):
        raise RpcError(INVALID_PARAMS, "historyScope must be 'context' or 'task'")
    known = name in services.registry.graph_ids
    assistant_id = system_assistant_id(name) if known else name.lower()
    access = await caller.may("assistants", "read", {"assistant_id": assistant_id})
    if not UUID_FORM.fullmatch(assistant_id):
        raise RpcError(INVALID_PARAMS, "Invalid assistant ID: must be a UUID")
    try:
        assistant = await assistants.get(services.db, assistant_id, access=access)
    except NotFoundError:
        raise RpcError(INVALID_PARAMS, "Assistant not found") from None
    url = f"{base_url.rstrip('/')}/a2a/{assistant.assistant_id}"
    return Agent(services, caller, assistant, url, scope)


def _require_asking(chain: Chain) -> None:
    state = forms.state_of(chain)
    if state in forms.TERMINAL:
        raise RpcError(forms.UNSUPPORTED_OPERATION, "A terminal task cannot accept another message")
    if state != "input-required":
        raise RpcError(forms.UNSUPPORTED_OPERATION, "A task that is at work takes no message")
