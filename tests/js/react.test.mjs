// The React hook of the event-streaming protocol against a live server: `THREADWELL_URL=… node --test`.
import assert from "node:assert/strict";
import { test } from "node:test";
import { openGate } from "./gate.mjs";
import { show } from "./screen.mjs";

const { Client } = await import("@langchain/langgraph-sdk");
const { useStream, useSubmissionQueue } = await import("@langchain/react");
const { StreamController } = await import("langgraph-sdk-1/stream");
// Node has one of its own from 22 on.
globalThis.WebSocket ??= (await import("ws")).WebSocket;

const apiUrl = process.env.THREADWELL_URL;
const client = new Client({ apiUrl });
const human = (content) => ({ messages: [{ type: "human", content }] });

async function until(look, what) {
  const deadline = Date.now() + 20_000;
  while (!(await look())) {
    assert.ok(Date.now() < deadline, `in vain for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

for (const transport of ["sse", "websocket"]) {
  let threadId = null;
  const open = (assistantId, more = {}, hook = useStream) =>
    show(hook, { apiUrl, transport, assistantId, onThreadId: (id) => (threadId = id), ...more });
  const last = (stream) => stream.messages.at(-1)?.text;

  test(`${transport}: sends, and again after a reload`, async () => {
    const before = await open("chat");
    before.now.submit(human("hello there"));
    await before.until((stream) => !stream.isLoading && last(stream) === "(1) hello there", "one");
    before.now.submit(human("and you"));
    await before.until((stream) => !stream.isLoading && last(stream) === "(3) and you", "two");
    before.leave();

    const gate = await openGate();
    const after = await open("chat", { threadId });
    await after.until((stream) => last(stream) === "(3) and you", "the history");
    after.now.submit(human(`hold ${gate.port} x more words`));
    await after.until((stream) => last(stream) === "(5)", "the first word");
    gate.release();
    await after.until((stream) => last(stream) === "(5) more words", "three");
    after.leave();
    gate.close();
  });

  test(`${transport}: answers a question after a reload`, async () => {
    const before = await open("ask");
    before.now.submit({ name: "x" });
    await before.until((stream) => stream.interrupt && !stream.isLoading, "the question");
    assert.deepEqual(before.now.interrupt.value, { question: "Go on?" });
    before.leave();

    const after = await open("ask", { threadId });
    await after.until((stream) => stream.interrupt, "the question again");
    await after.now.respond("yes", { interruptId: after.now.interrupt.id });
    await after.until((stream) => stream.values.log?.length === 2, "the rest");
    assert.deepEqual(after.now.values.log, ["asked: yes", "after"]);
    after.leave();
  });

  test(`${transport}: a reload goes on with the stream`, async () => {
    const gate = await openGate();
    const before = await open("chat");
    before.now.submit(human(`hold ${gate.port} x more words`));
    await before.until((stream) => last(stream) === "(1)", "the first word");
    before.leave();
    // The hook looks there for what is under way.
    await until(async () => (await client.threads.getState(threadId)).next.length, "its checkpoint");

    const after = await open("chat", { threadId });
    await after.until((stream) => last(stream) === "(1)", "the first word again");
    gate.release();
    await after.until((stream) => !stream.isLoading && last(stream) === "(1) more words", "the rest");
    after.leave();
    gate.close();
  });

  test(`${transport}: stops a run and goes on`, async () => {
    const gate = await openGate();
    const screen = await open("chat");
    screen.now.submit(human(`hold ${gate.port} x more words`));
    await screen.until((stream) => last(stream) === "(1)", "the first word");
    await screen.now.stop();
    assert.equal(screen.now.isLoading, false);
    const status = async () => (await client.runs.list(threadId))[0].status;
    await until(async () => (await status()) === "interrupted", "its end");
    screen.now.submit(human("go on"));
    await screen.until((stream) => !stream.isLoading && last(stream) === "(3) go on", "the answer");
    screen.leave();
    gate.close();
  });

  test(`${transport}: queues what is said meanwhile`, async () => {
    const gate = await openGate();
    let queue;
    const screen = await open("chat", {}, (options) => {
      const stream = useStream(options);
      queue = useSubmissionQueue(stream);
      return stream;
    });
    screen.now.submit(human(`hold ${gate.port} x more words`));
    await screen.until((stream) => last(stream) === "(1)", "the first word");
    screen.now.submit(human("and you"), { multitaskStrategy: "enqueue" });
    await screen.until(() => queue.size === 1, "the queue");
    gate.release();
    await screen.until((stream) => !stream.isLoading && last(stream) === "(3) and you", "both");
    screen.leave();
    gate.close();
  });

  test(`${transport}: a queue on the server is seen by every page`, async () => {
    const gate = await openGate();
    // What a newer hook is made of.
    const opened = (thread) => {
      const options = { assistantId: "chat", client, threadId: thread, transport, queue: "server" };
      const page = new StreamController(options);
      return { page, leave: page.activate(), shown: () => page.rootStore.getSnapshot() };
    };
    const one = opened(null);
    one.page.submit(human(`hold ${gate.port} x more words`));
    await until(() => last(one.shown()) === "(1)", "the first word");
    await one.page.submit(human("and you"), { multitaskStrategy: "enqueue" });
    const other = opened(one.shown().threadId);
    await until(() => other.page.queueStore.getSnapshot().length === 1, "the queue");
    gate.release();
    for (const { page, shown } of [one, other]) {
      await until(() => !shown().isLoading && last(shown()) === "(3) and you", "both answers");
      await until(() => page.queueStore.getSnapshot().length === 0, "an empty queue");
    }
    [one, other].forEach(({ leave }) => leave());
    gate.close();
  });

  test(`${transport}: shows subgraphs, tools and errors`, async () => {
    const nested = await open("nested");
    nested.now.submit(human("deep"));
    await nested.until((stream) => !stream.isLoading && last(stream) === "(1) deep", "the answer");
    const subgraphs = [...nested.now.subgraphs.values()];
    assert.deepEqual(subgraphs.map((one) => one.namespace[0].split(":")[0]), ["inner"]);
    nested.leave();

    const adds = await open("adds");
    adds.now.submit(human("2 + 3"));
    await adds.until((stream) => !stream.isLoading && last(stream) === "It is 5.", "the sum");
    const [call] = adds.now.toolCalls;
    assert.deepEqual([call.name, call.args, call.output], ["add", { left: 2, right: 3 }, "5"]);
    adds.leave();

    const boom = await open("boom");
    boom.now.submit({ kind: "value" });
    await boom.until((stream) => stream.error, "the error");
    assert.match(String(boom.now.error), /boom!/);
    boom.leave();
  });
}
