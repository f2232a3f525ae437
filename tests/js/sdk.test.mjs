// The official JavaScript SDK against a live server: `THREADWELL_URL=… node --test`.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { test } from "node:test";
import { openGate } from "./gate.mjs";
import { show } from "./screen.mjs";

const apiUrl = process.env.THREADWELL_URL;
const HELLO = { messages: [{ type: "human", content: "hello there", id: "question" }] };
const NEVER = "0 0 29 2 *";

async function collect(stream) {
  const parts = [];
  for await (const part of stream) parts.push(part);
  return parts;
}

const last = (messages) => messages.at(-1).content;

for (const name of ["langgraph-sdk-1", "langgraph-sdk-2"]) {
  const { Client } = await import(name);
  const { useStream } = await import(`${name}/react`);
  const client = new Client({ apiUrl });

  test(`${name}: threads, runs, states`, async () => {
    const mark = randomUUID();
    const { thread_id } = await client.threads.create({ metadata: { mark } });
    const values = await client.runs.wait(thread_id, "chat", { input: HELLO });
    assert.equal(last(values.messages), "(1) hello there");
    const state = await client.threads.getState(thread_id);
    assert.equal(last(state.values.messages), "(1) hello there");
    const history = await client.threads.getHistory(thread_id);
    assert.equal(history.length, 3);
    const found = await client.threads.search({ metadata: { mark }, status: "idle" });
    assert.deepEqual(found.map((thread) => thread.thread_id), [thread_id]);
    await client.threads.updateState(thread_id, {
      values: { messages: [{ type: "ai", content: "told" }] },
      asNode: "model",
    });
    assert.equal(last((await client.threads.getState(thread_id)).values.messages), "told");
    const { thread_id: copied } = await client.threads.copy(thread_id);
    assert.equal(last((await client.threads.getState(copied)).values.messages), "told");
    const run = await client.runs.create(thread_id, "chat", { input: HELLO });
    await client.runs.join(thread_id, run.run_id);
    assert.equal((await client.runs.get(thread_id, run.run_id)).status, "success");
    assert.equal((await client.runs.list(thread_id)).length, 2);
    await client.threads.delete(thread_id);
    await assert.rejects(client.threads.get(thread_id));
  });

  test(`${name}: streams in every mode`, async () => {
    const { thread_id } = await client.threads.create();
    const streamMode = ["values", "updates", "messages-tuple", "debug", "tasks", "checkpoints"];
    const parts = await collect(
      client.runs.stream(thread_id, "chat", { input: HELLO, streamMode, streamSubgraphs: true }),
    );
    const names = new Set(parts.map((part) => part.event));
    assert.equal(parts[0].event, "metadata");
    for (const mode of ["values", "updates", "messages", "debug", "tasks", "checkpoints"]) {
      assert.ok(names.has(mode), mode);
    }
    const events = await collect(
      client.runs.stream(null, "chat", { input: HELLO, streamMode: ["events", "messages"] }),
    );
    assert.ok(events.some((part) => part.event === "events"));
    assert.ok(events.some((part) => part.event === "messages/partial"));
  });

  test(`${name}: a run is followed from its start and cancelled`, async () => {
    const gate = await openGate();
    const { thread_id } = await client.threads.create();
    const said = { messages: [{ type: "human", content: `hold ${gate.port} x more words` }] };
    const run = await client.runs.create(thread_id, "chat", {
      input: said,
      streamMode: ["messages-tuple"],
      streamResumable: true,
    });
    await gate.reached;
    const following = collect(
      client.runs.joinStream(thread_id, run.run_id, { lastEventId: "-1" }),
    );
    await client.runs.cancel(thread_id, run.run_id, true);
    const parts = await following;
    assert.ok(parts.some((part) => part.event === "messages"));
    assert.equal((await client.runs.get(thread_id, run.run_id)).status, "interrupted");
    gate.close();
  });

  test(`${name}: assistants, crons, items`, async () => {
    const mark = randomUUID();
    const made = await client.assistants.create({ graphId: "chat", metadata: { mark } });
    await client.assistants.update(made.assistant_id, { name: "Two" });
    const [found] = await client.assistants.search({ metadata: { mark } });
    assert.deepEqual([found.name, found.version], ["Two", 2]);
    assert.equal((await client.assistants.getVersions(made.assistant_id)).length, 2);
    const graph = await client.assistants.getGraph(made.assistant_id);
    assert.ok(graph.nodes.some((node) => node.id === "model"));
    assert.equal((await client.assistants.getSchemas(made.assistant_id)).graph_id, "chat");
    const cron = await client.crons.create(made.assistant_id, { schedule: NEVER });
    const crons = await client.crons.search({ assistantId: made.assistant_id });
    assert.deepEqual(crons.map((one) => one.cron_id), [cron.cron_id]);
    await client.crons.delete(cron.cron_id);
    await client.assistants.delete(made.assistant_id);
    await client.store.putItem([mark], "key", { a: 1 });
    assert.deepEqual((await client.store.getItem([mark], "key")).value, { a: 1 });
    assert.equal((await client.store.searchItems([mark])).items.length, 1);
    await client.store.deleteItem([mark], "key");
  });

  test(`${name}: useStream sends, and sends again`, async () => {
    let threadId = null;
    const screen = await show(useStream, {
      apiUrl,
      assistantId: "chat",
      onThreadId: (id) => (threadId = id),
    });
    await screen.until((stream) => !stream.isLoading, "the hook");
    screen.now.submit(HELLO);
    await screen.until(
      (stream) => !stream.isLoading && stream.messages.length === 2,
      "the first answer",
    );
    assert.equal(last(screen.now.messages), "(1) hello there");
    screen.now.submit({ messages: [{ type: "human", content: "and you" }] });
    await screen.until(
      (stream) => !stream.isLoading && stream.messages.length === 4,
      "the second answer",
    );
    assert.equal(last(screen.now.messages), "(3) and you");
    assert.ok(threadId);
    screen.leave();
  });

  test(`${name}: useStream shows an interrupt and answers it`, async () => {
    const screen = await show(useStream, { apiUrl, assistantId: "ask" });
    await screen.until((stream) => !stream.isLoading, "the hook");
    screen.now.submit({ name: "x" });
    await screen.until((stream) => stream.interrupt?.value && !stream.isLoading, "the question");
    assert.deepEqual(screen.now.interrupt.value, { question: "Go on?" });
    screen.now.submit(undefined, { command: { resume: "yes" } });
    await screen.until((stream) => stream.values?.log?.length === 2, "the rest");
    assert.deepEqual(screen.now.values.log, ["asked: yes", "after"]);
    screen.leave();
  });

  test(`${name}: useStream takes up a stream that a reload broke off`, async () => {
    const gate = await openGate();
    let threadId = null;
    const options = {
      apiUrl,
      assistantId: "chat",
      reconnectOnMount: true,
      onThreadId: (id) => (threadId = id),
    };
    const before = await show(useStream, options);
    await before.until((stream) => !stream.isLoading, "the hook");
    before.now.submit({
      messages: [{ type: "human", content: `hold ${gate.port} x more words` }],
    }, { streamMode: ["messages-tuple"], streamResumable: true });
    await before.until(
      (stream) => stream.messages.some((message) => message.content === "(1)"),
      "the first word",
    );
    before.leave();
    const after = await show(useStream, { ...options, threadId });
    await after.until(
      (stream) => stream.messages.some((message) => message.content === "(1)"),
      "the first word again",
    );
    gate.release();
    await after.until(
      (stream) => !stream.isLoading && last(stream.messages) === "(1) more words",
      "the rest",
    );
    after.leave();
    gate.close();
  });
}

const { Client } = await import("langgraph-sdk-1");
// Node has one of its own from 22 on.
globalThis.WebSocket ??= (await import("ws")).WebSocket;

for (const streamProtocol of ["v2-sse", "v2-websocket"]) {
  const client = new Client({ apiUrl, streamProtocol });

  test(`${streamProtocol}: words as they come, and the output`, async () => {
    const gate = await openGate();
    const thread = client.threads.stream({ assistantId: "chat" });
    const output = thread.output;
    await thread.run.start({
      input: { messages: [{ type: "human", content: `hold ${gate.port} x more words` }] },
    });
    const said = [];
    for await (const message of thread.messages) {
      // It has begun, and goes on only now.
      gate.release();
      said.push(await message.text);
      break;
    }
    assert.deepEqual(said, ["(1) more words"]);
    assert.equal((await output).messages.length, 2);
    await thread.close();
    gate.close();
  });

  test(`${streamProtocol}: an interrupt and its answer`, async () => {
    const thread = client.threads.stream({ assistantId: "ask" });
    const output = thread.output;
    await thread.run.start({ input: { name: "x" } });
    await output;
    assert.ok(thread.interrupted);
    const [asked] = thread.interrupts;
    await thread.input.respond({
      namespace: asked.namespace,
      interrupt_id: asked.interruptId,
      response: "yes",
    });
    const deadline = Date.now() + 20_000;
    let log = [];
    while (log.length < 2 && Date.now() < deadline) {
      log = (await client.threads.getState(thread.threadId)).values.log ?? [];
    }
    assert.deepEqual(log, ["asked: yes", "after"]);
    await thread.close();
  });
}
