// Sends n events with @fluent-org/logger: node node.js OPTIONS N TIME
//
// OPTIONS are those of FluentClient as JSON, with files for ca, cert and key of
// socket.tls. TIME is event (seconds and nanoseconds) or date (what the client
// makes of a Date: whole seconds, or milliseconds).
const fs = require("fs");
const { FluentClient, EventTime } = require("@fluent-org/logger");

async function main() {
  const options = JSON.parse(process.argv[2]);
  const n = Number(process.argv[3]);
  const tls = (options.socket || {}).tls;
  for (const name of ["ca", "cert", "key"]) {
    if (tls && tls[name]) tls[name] = fs.readFileSync(tls[name]);
  }
  const client = new FluentClient("node", { ...options, disableAutoconnect: true });
  client.socketOn("error", (err) => console.error(err.message));
  await client.connect();
  const sent = [];
  for (let i = 0; i < n; i++) {
    const ms = 1790000000000 + i;
    const time = process.argv[4] === "event" ? new EventTime(Math.floor(ms / 1000), (ms % 1000) * 1000000) : new Date(ms);
    sent.push(client.emit("app", { log: `line ${i}`, n: i }, time));
  }
  await Promise.all(sent);
  await client.shutdown();
}

main().catch((err) => {
  console.error(err);
  process.exit(1);
});
