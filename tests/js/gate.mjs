// Where the model of the graph `chat` waits for the test: `hold PORT NAME words`.
import net from "node:net";

export async function openGate() {
  const waiting = [];
  let open = false;
  let arrived;
  const reached = new Promise((resolve) => (arrived = resolve));
  const server = net.createServer((socket) => {
    socket.on("error", () => {});
    socket.once("data", () => {
      if (open) socket.end("\n");
      else waiting.push(socket);
      arrived();
    });
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    port: server.address().port,
    reached,
    // For those who wait, and those who come later.
    release: () => {
      open = true;
      waiting.splice(0).forEach((socket) => socket.end("\n"));
    },
    close: () => {
      waiting.forEach((socket) => socket.destroy());
      server.close();
    },
  };
}
