// assistant-ui's runtime on the list of threads of examples/assistant-ui: `THREADWELL_URL=… node --test`.
import assert from "node:assert/strict";
import { copyFile, rm } from "node:fs/promises";
import { test } from "node:test";
import { show } from "./screen.mjs";

const { useLocalRuntime, useRemoteThreadListRuntime } = await import("@assistant-ui/react");
// Beside what it imports.
const here = new URL(`./thread-list.${process.pid}.mjs`, import.meta.url);
await copyFile(new URL("../../examples/assistant-ui/thread-list.js", import.meta.url), here);
const { threadList } = await import(here).finally(() => rm(here));
const url = process.env.THREADWELL_URL;

async function until(check, what) {
  const deadline = Date.now() + 20_000;
  while (!check()) {
    assert.ok(Date.now() < deadline, `in vain for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

async function started() {
  const runtimeHook = () => useLocalRuntime({ async *run() {} });
  const screen = await show(useRemoteThreadListRuntime, { adapter: threadList(url), runtimeHook });
  await until(() => screen.now && !screen.now.threads.getState().isLoading, "the list");
  return screen.now.threads;
}

const session = async (id) => (await fetch(`${url}/api/sessions/${id}`)).json();

test("assistant-ui: its list of threads are the sessions", async () => {
  const threads = await started();
  const item = threads.getItemById(threads.getState().mainThreadId);
  const { remoteId } = await item.initialize();
  const said = { method: "POST", body: JSON.stringify({ query: "Which rivers are there?" }) };
  await fetch(`${url}/api/sessions/${remoteId}/messages`, said);
  const title = [];
  for await (const chunk of await threadList(url).generateTitle(remoteId, [])) {
    if (chunk.type === "text-delta") title.push(chunk.textDelta);
  }
  assert.deepEqual(title, ["Which rivers are there?"]);
  await item.rename("Rivers");
  assert.equal((await session(remoteId)).name, "Rivers");

  // As after a reload of the page.
  const again = await started();
  const found = again.getItemById(remoteId);
  assert.equal(found.getState().title, "Rivers");
  await found.archive();
  assert.equal((await session(remoteId)).status, "archived");
  assert.deepEqual(again.getState().archivedThreadIds, [remoteId]);
  await found.unarchive();
  assert.ok(again.getState().threadIds.includes(remoteId));
  await found.delete();
  assert.equal((await session(remoteId)).code, "not_found");
  assert.ok(!(await started()).getState().threadIds.includes(remoteId));
});
