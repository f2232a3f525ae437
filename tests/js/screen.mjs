// A browser without a window, and a component that does nothing but use the hook.
import { Window } from "happy-dom";

export const window = new Window({ url: "http://127.0.0.1/" });
for (const name of ["document", "HTMLElement", "Node", "Element", "Event", "sessionStorage"]) {
  globalThis[name] = window[name];
}
globalThis.window = window;
globalThis.navigator ??= window.navigator;
// What the page fetches, Node fetches.
window.fetch = globalThis.fetch;

const { act, createElement } = await import("react");
const { createRoot } = await import("react-dom/client");

// Show a component that uses the hook with these options; `now` is what it last returned. It renders
// what `render` makes of that, into `element`.
export async function show(useStream, options, render = () => null) {
  const element = window.document.body.appendChild(window.document.createElement("div"));
  const shown = { now: undefined, element };
  const listeners = new Set();
  function App() {
    shown.now = useStream(options);
    queueMicrotask(() => listeners.forEach((listener) => listener()));
    return render(shown.now);
  }
  const root = createRoot(element);
  // With its effects: a hook that is used before them forgets what it was told.
  globalThis.IS_REACT_ACT_ENVIRONMENT = true;
  await act(async () => root.render(createElement(App)));
  globalThis.IS_REACT_ACT_ENVIRONMENT = false;
  shown.until = (holds, what) =>
    new Promise((resolve, reject) => {
      const deadline = setTimeout(() => {
        listeners.delete(look);
        reject(new Error(`in vain for ${what}: ${JSON.stringify(shown.now?.values)}`));
      }, 20_000);
      function look() {
        if (shown.now === undefined || !holds(shown.now)) return;
        clearTimeout(deadline);
        listeners.delete(look);
        resolve(shown.now);
      }
      listeners.add(look);
      look();
    });
  shown.leave = () => root.unmount();
  return shown;
}
