// Generative UI against a live server: `THREADWELL_URL=… SDK=langgraph-sdk-2 node --test`.
import assert from "node:assert/strict";
import { test } from "node:test";
import { show, window } from "./screen.mjs";

const { SDK, THREADWELL_URL: apiUrl } = process.env;
const { createElement } = await import("react");
const { useStream } = await import(`${SDK}/react`);
const ui = await import(`${SDK}/react-ui`);
ui.experimental_loadShare("shared-with-the-page", { shared: "of the page" });

// What a browser does with the scripts of a fragment, and happy-dom does not.
const { prototype } = window.Range;
const parse = prototype.createContextualFragment;
const styles = [];
globalThis[Symbol.for("LGUI_REQUIRE")] = window[Symbol.for("LGUI_REQUIRE")];
prototype.createContextualFragment = function (html) {
  const fragment = parse.call(this, html);
  const read = async ({ src, href }) => (await fetch(src || href)).text();
  for (const style of fragment.querySelectorAll("link")) styles.push(read(style));
  for (const script of fragment.querySelectorAll("script")) {
    read(script).then((text) => [text, script.getAttribute("onload")].forEach(globalThis.eval));
  }
  return fragment;
};

test("components come by custom events, and their bundle renders them", async () => {
  const heard = [];
  const onCustomEvent = (event, { mutate }) => {
    heard.push(event.type);
    mutate((before) => ({ ...before, ui: ui.uiMessageReducer(before.ui ?? [], event) }));
  };
  const options = { apiUrl, assistantId: "agent", onCustomEvent, fetchStateHistory: true };
  const screen = await show(useStream, options, (stream) =>
    (stream.values.ui ?? []).map((message) =>
      createElement(ui.LoadExternalComponent, { key: message.id, stream, message, fallback: "…" })
    )
  );
  screen.now.submit({ messages: [{ type: "human", content: "How is the weather?" }] });
  await screen.until((stream) => !stream.isLoading && heard.length === 4, "all events");
  assert.deepEqual(heard, ["ui", "ui", "ui", "remove-ui"]);
  const [{ id, name, props, metadata }, ...others] = screen.now.values.ui;
  assert.deepEqual([id, name, props], ["shown", "weather", { city: "Oslo", degrees: 7 }]);
  assert.deepEqual([metadata.message_id, others], ["answer", []]);

  const shown = () => screen.element.querySelector("div").shadowRoot?.querySelector(".weather");
  const deadline = Date.now() + 20_000;
  while (!shown()) {
    assert.ok(Date.now() < deadline, "in vain for the component");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  assert.equal(shown().textContent, "Oslo: 7 °C, after 2 messages");
  assert.equal(shown().title, "of the page");
  assert.match(await styles[0], /rebeccapurple/);
  screen.leave();
});
