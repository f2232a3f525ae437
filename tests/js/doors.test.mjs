// The AI SDK's chat and AG-UI's agent against a live server: `THREADWELL_URL=… node --test`.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { test } from "node:test";
import { HttpAgent } from "@ag-ui/client";
import {
  AbstractChat,
  DefaultChatTransport,
  lastAssistantMessageIsCompleteWithApprovalResponses,
} from "ai";
import { openGate } from "./gate.mjs";

const url = process.env.THREADWELL_URL;
const textOf = (message) =>
  message.parts.filter((part) => part.type === "text").map((part) => part.text);

// What useChat keeps in React, without React.
class Chat extends AbstractChat {
  constructor({ id = randomUUID(), model = "chat", messages = [], ...options } = {}) {
    const state = {
      status: "ready",
      error: undefined,
      messages,
      pushMessage: (message) => (state.messages = [...state.messages, message]),
      popMessage: () => (state.messages = state.messages.slice(0, -1)),
      replaceMessage: (index, message) => {
        state.messages = state.messages.with(index, message);
      },
      snapshot: structuredClone,
    };
    const transport = new DefaultChatTransport({ api: `${url}/api/ai/chat`, body: { model } });
    super({ id, state, transport, ...options });
  }
}

async function until(check) {
  const deadline = Date.now() + 20_000;
  while (!check()) {
    assert.ok(Date.now() < deadline, `it did not come to ${check}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

async function history(id, branch = "active") {
  const answer = await fetch(`${url}/api/sessions/${id}/messages?branch=${branch}`);
  assert.equal(answer.status, 200);
  return (await answer.json()).data;
}

const contents = async (id, branch) => (await history(id, branch)).map((row) => row.content);

test("ai: a chat is answered, edited and answered again", async () => {
  const chat = new Chat();
  await chat.sendMessage({ text: "one" });
  assert.equal(chat.status, "ready");
  const [asked, answered] = chat.messages;
  assert.deepEqual(textOf(answered), ["(1) one"]);
  await chat.sendMessage({ text: "two" });
  assert.deepEqual(await contents(chat.id), ["one", "(1) one", "two", "(3) two"]);
  assert.equal((await history(chat.id))[0].id, asked.id);

  await chat.regenerate();
  assert.deepEqual(chat.messages.flatMap(textOf), ["one", "(1) one", "two", "(3) two"]);
  assert.equal((await history(chat.id, "all")).length, 5);
  await chat.sendMessage({ text: "zwei", messageId: chat.messages[2].id });
  assert.deepEqual(chat.messages.flatMap(textOf), ["one", "(1) one", "zwei", "(3) zwei"]);
  assert.deepEqual(await contents(chat.id), ["one", "(1) one", "zwei", "(3) zwei"]);
  assert.deepEqual((await contents(chat.id, "all")).filter((text) => text === "two"), ["two"]);
});

test("ai: an id that is no UUID is a session all the same", async () => {
  const chat = new Chat({ id: `my chat ${randomUUID()}` });
  await chat.sendMessage({ text: "one" });
  await chat.sendMessage({ text: "two" });
  assert.deepEqual(textOf(chat.messages[3]), ["(3) two"]);
});

test("ai: tools are parts, model calls are steps", async () => {
  const chat = new Chat({ model: "adds" });
  await chat.sendMessage({ text: "2 + 3?" });
  const parts = chat.messages[1].parts;
  assert.deepEqual(
    parts.map((part) => part.type),
    ["step-start", "text", "dynamic-tool", "step-start", "text"],
  );
  assert.deepEqual(textOf(chat.messages[1]), ["Let me see.", "It is 5."]);
  const { toolName, state, input, output } = parts[2];
  assert.deepEqual(
    { toolName, state, input, output },
    { toolName: "add", state: "output-available", input: { left: 2, right: 3 }, output: "5" },
  );
  await chat.sendMessage({ text: "2 + 3?" });
  assert.equal((await history(chat.id)).length, 8);
});

test("ai: what a graph asks is approved, denied, or answered", async () => {
  for (const approved of [true, false]) {
    const chat = new Chat({
      model: "ask_in_chat",
      sendAutomaticallyWhen: lastAssistantMessageIsCompleteWithApprovalResponses,
    });
    await chat.sendMessage({ text: "go" });
    const asked = chat.messages[1].parts.at(-1);
    assert.equal(asked.state, "approval-requested");
    assert.deepEqual(asked.input, { question: "Go on?" });
    await chat.addToolApprovalResponse({ id: asked.approval.id, approved });
    await until(() => chat.status === "ready" && textOf(chat.messages[1]).length === 1);
    assert.equal(chat.messages.length, 2);
    assert.match(textOf(chat.messages[1])[0], approved ? /True/ : /False/);
    const part = chat.messages[1].parts.find((found) => found.type === "dynamic-tool");
    assert.equal(part.state, approved ? "output-available" : "output-denied");
  }
  const chat = new Chat({ model: "ask_in_chat" });
  await chat.sendMessage({ text: "go" });
  const { toolCallId } = chat.messages[1].parts.at(-1);
  await chat.addToolOutput({ tool: "interrupt", toolCallId, output: "surely" });
  await chat.sendMessage();
  assert.deepEqual(textOf(chat.messages[1]), ["You said surely"]);
});

test("ai: an answer that was left is taken up again from its beginning", async () => {
  const gate = await openGate();
  const chat = new Chat();
  const sending = chat.sendMessage({ text: `hold ${gate.port} x more words` });
  await gate.reached;
  await until(() => chat.messages[1]);
  await chat.stop();
  await sending;
  const again = new Chat({ id: chat.id, messages: chat.messages.slice(0, 1) });
  const resuming = again.resumeStream();
  await until(() => again.messages[1]);
  gate.release();
  await resuming;
  assert.deepEqual(textOf(again.messages[1]), ["(1) more words"]);
  const idle = await fetch(`${url}/api/ai/chat/${chat.id}/stream`);
  assert.equal(idle.status, 204);
  await again.resumeStream();
  assert.equal(again.status, "ready");
  assert.equal(again.messages.length, 2);
  gate.close();
});

test("ai: a run that fails is an error of the chat", async () => {
  let told;
  const chat = new Chat({ onError: (error) => (told = error.message) });
  await chat.sendMessage({ text: "fail please" });
  assert.equal(told, "the model broke down");
  const wrong = new Chat({ model: "nothing", onError: (error) => (told = error.message) });
  await wrong.sendMessage({ text: "hello" });
  assert.match(told, /Invalid assistant/);
});

test("ai: after an answer that failed before its first word the conversation goes on", async () => {
  const chat = new Chat({ onError: () => {} });
  await chat.sendMessage({ text: "fail" });
  assert.deepEqual(chat.messages.map((message) => message.parts.length), [1, 0]);
  for (const text of ["one", "two"]) await chat.sendMessage({ text });
  assert.deepEqual(await contents(chat.id, "all"), ["fail", "one", "(2) one", "two", "(4) two"]);
});

test("ai: what a model thinks is one part", async () => {
  const chat = new Chat();
  await chat.sendMessage({ text: "think of a river" });
  const parts = chat.messages[1].parts;
  assert.deepEqual(parts.map((part) => part.type), ["step-start", "reasoning", "text"]);
  assert.deepEqual([parts[1].text, parts[1].state], ["ofariver", "done"]);
});

function agentOf(assistant, options = {}) {
  return new HttpAgent({
    url: `${url}/agui?assistant_id=${assistant}`,
    threadId: randomUUID(),
    ...options,
  });
}

const say = (agent, content) => agent.addMessage({ id: randomUUID(), role: "user", content });

test("ag-ui: an agent answers, remembers and branches", async () => {
  const agent = agentOf("chat");
  const types = [];
  agent.subscribe({ onEvent: ({ event }) => void types.push(event.type) });
  say(agent, "one");
  const { newMessages } = await agent.runAgent();
  assert.deepEqual(newMessages.map((message) => message.content), ["(1) one"]);
  assert.equal(types[0], "RUN_STARTED");
  assert.equal(types.at(-1), "RUN_FINISHED");
  say(agent, "two");
  await agent.runAgent();
  assert.equal(agent.messages.at(-1).content, "(3) two");
  const rows = await history(agent.threadId);
  assert.deepEqual(rows.map((row) => row.id), agent.messages.map((message) => message.id));

  agent.setMessages(agent.messages.slice(0, 2));
  say(agent, "zwei");
  await agent.runAgent();
  assert.deepEqual(await contents(agent.threadId), ["one", "(1) one", "zwei", "(3) zwei"]);
  assert.equal((await history(agent.threadId, "all")).length, 6);
});

test("ag-ui: what a model thinks is one message", async () => {
  const agent = agentOf("chat");
  const types = [];
  agent.subscribe({ onEvent: ({ event }) => void types.push(event.type) });
  say(agent, "think of a river");
  await agent.runAgent();
  const [, thought, answer] = agent.messages;
  assert.deepEqual([thought.role, thought.content], ["reasoning", "ofariver"]);
  assert.match(answer.content, /a river$/);
  assert.equal(types.filter((type) => type === "REASONING_START").length, 1);
});

test("ag-ui: tools are called and their results told", async () => {
  const agent = agentOf("adds");
  say(agent, "2 + 3?");
  await agent.runAgent();
  const [, asks, result, answer] = agent.messages;
  assert.equal(asks.content, "Let me see.");
  assert.deepEqual(JSON.parse(asks.toolCalls[0].function.arguments), { left: 2, right: 3 });
  assert.deepEqual([result.role, result.content], ["tool", "5"]);
  assert.equal(answer.content, "It is 5.");
  say(agent, "and again?");
  await agent.runAgent();
  assert.equal(agent.messages.length, 8);
  assert.equal((await history(agent.threadId)).length, 8);
});

test("ag-ui: what a graph asks interrupts the run and is resumed", async () => {
  const agent = agentOf("ask_in_chat");
  say(agent, "go");
  await agent.runAgent();
  const [asked] = agent.pendingInterrupts;
  assert.deepEqual(asked.metadata.value, { question: "Go on?" });
  await agent.runAgent({
    resume: [{ interruptId: asked.id, status: "resolved", payload: "gladly" }],
  });
  assert.equal(agent.messages.at(-1).content, "You said gladly");
  assert.deepEqual(agent.pendingInterrupts, []);
});

test("ai: what a graph goes by, and what its session is called, come beside the answer", async () => {
  const named = [];
  const chat = new Chat({
    model: "finds",
    onData: (part) => void named.push([part.type, part.data.name]),
  });
  await chat.sendMessage({ text: "Which rivers?" });
  assert.deepEqual(named, [["data-session", "Which rivers?"]]);
  const [page, note] = chat.messages[1].parts.filter((part) => part.type.startsWith("source-"));
  assert.deepEqual([page.type, page.url, page.title], ["source-url", "https://example.com/r", "Rivers"]);
  assert.deepEqual([note.type, note.sourceId, note.title], ["source-document", "n1", "notes.md"]);
  assert.deepEqual(textOf(chat.messages[1]), ["(1) Which rivers?"]);
  await chat.sendMessage({ text: "and now?" });
  assert.deepEqual(textOf(chat.messages[3]), ["(3) and now?"]);
});

test("ag-ui: the state is told, as it changes, and what of it is known is no input", async () => {
  const agent = agentOf("finds", { initialState: { topic: "lakes" } });
  const types = [];
  const custom = {};
  agent.subscribe({
    onEvent: ({ event }) => void types.push(event.type),
    onCustomEvent: ({ event }) => void (custom[event.name] = event.value),
  });
  say(agent, "one");
  await agent.runAgent();
  // A reducer has added both steps up.
  assert.deepEqual(agent.state, { topic: "lakes", steps: ["found", "answered"] });
  assert.equal(types.filter((type) => type === "STATE_SNAPSHOT").length, 1);
  assert.ok(types.includes("STATE_DELTA"));
  assert.equal(custom.source.documents[0].title, "Rivers");
  assert.equal(custom["session.updated"].name, "one");
  // The client sends all of the state with each run.
  agent.setState({ ...agent.state, topic: "seas" });
  say(agent, "two");
  await agent.runAgent();
  assert.deepEqual(agent.state, { topic: "seas", steps: ["found", "answered", "found", "answered"] });
  const stored = await (await fetch(`${url}/threads/${agent.threadId}/state`)).json();
  const { messages, ...state } = stored.values;
  assert.deepEqual(state, agent.state);
  assert.deepEqual(messages.map((message) => message.id), agent.messages.map((message) => message.id));
});

test("ag-ui: a run that fails is a RUN_ERROR", async () => {
  const agent = agentOf("chat");
  let told;
  say(agent, "fail please");
  await agent.runAgent({}, { onRunErrorEvent: ({ event }) => void (told = event.message) })
    .catch(() => {});
  assert.equal(told, "the model broke down");
  say(agent, "and now?");
  await agent.runAgent();
  assert.match(agent.messages.at(-1).content, /and now\?/);
});
