// assistant-ui's list of threads, kept by Threadwell: a RemoteThreadListAdapter for useRemoteThreadListRuntime.
import { createAssistantStream } from "assistant-stream";

// `url` of the server; `headers` of each request, such as { authorization: "Bearer tw_…" }.
export function threadList(url, headers = {}) {
  async function ask(method, path, body) {
    const answer = await fetch(`${url}/api/sessions${path}`, {
      method,
      headers: { ...headers, "content-type": "application/json" },
      body: body && JSON.stringify(body),
    });
    if (!answer.ok) throw new Error((await answer.json()).detail);
    return answer.status === 204 ? undefined : answer.json();
  }
  const at = (id, more = "") => `/${encodeURIComponent(id)}${more}`;
  const change = async (id, body) => void (await ask("PATCH", at(id), body));
  const shown = (session) => ({
    remoteId: session.id,
    status: session.status === "archived" ? "archived" : "regular",
    title: session.title_source ? session.name : undefined,
    lastMessageAt: new Date(session.update_time),
    custom: session.metadata,
  });
  return {
    async list({ after } = {}) {
      const page = new URLSearchParams({ status: "all", limit: "50", ...(after && { cursor: after }) });
      const { data, next_cursor } = await ask("GET", `?${page}`);
      return { threads: data.map(shown), nextCursor: next_cursor ?? undefined };
    },
    fetch: async (id) => shown(await ask("GET", at(id))),
    async initialize(_, { custom } = {}) {
      return { remoteId: (await ask("POST", "", custom ? { metadata: custom } : {})).id };
    },
    rename: (id, name) => change(id, { name }),
    updateCustom: (id, metadata = {}) => change(id, { metadata }),
    archive: (id) => change(id, { status: "archived" }),
    unarchive: (id) => change(id, { status: "active" }),
    delete: (id) => ask("DELETE", at(id)),
    // The first words are its title already; this one is the model's.
    generateTitle: async (id) =>
      createAssistantStream(async (stream) => {
        stream.appendText((await ask("POST", at(id, "/title"), {})).name);
      }),
  };
}
