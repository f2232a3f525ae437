// A page of another server than the one whose components it shows: `?api=URL`. It tells what is seen.
import { createRoot } from "react-dom/client";
import { useStream } from "langgraph-sdk-2/react";
import { LoadExternalComponent, experimental_loadShare, uiMessageReducer } from "langgraph-sdk-2/react-ui";

experimental_loadShare("shared-with-the-page", { shared: "of the page" });

const options = {
  apiUrl: new URLSearchParams(location.search).get("api"),
  assistantId: "agent",
  fetchStateHistory: true,
  onCustomEvent: (event, { mutate }) =>
    mutate((before) => ({ ...before, ui: uiMessageReducer(before.ui ?? [], event) })),
};

function App() {
  const stream = useStream(options);
  const ask = () => stream.submit({ messages: [{ type: "human", content: "How is the weather?" }] });
  const shown = (message) => <LoadExternalComponent key={message.id} stream={stream} message={message} />;
  return [<button key="ask" onClick={ask} />, ...(stream.values.ui ?? []).map(shown)];
}

const element = document.body.appendChild(document.createElement("main"));
createRoot(element).render(<App />);

window.seen = () =>
  new Promise((resolve) => {
    const look = setInterval(() => {
      const found = element.querySelector("div")?.shadowRoot?.querySelector(".weather");
      const color = found && getComputedStyle(found).color;
      // Its styles may come after it.
      if (!found?.textContent.includes("after 2") || color === "rgb(0, 0, 0)") return;
      clearInterval(look);
      resolve([found.textContent, found.title, color]);
    }, 20);
    element.querySelector("button").click();
  });
