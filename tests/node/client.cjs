// A stranger: MQTT.js over WebSocket. Asks, and cancels after the first delta when the last argument
// says so; prints every reply as a line of JSON.
const mqtt = require("mqtt");

const [url, version, body, cancel] = process.argv.slice(2);
const v5 = version === "5";
const topic = "edgekit/v1/req/dev/demo/browser";
const control = "edgekit/v1/ctl/dev/demo/browser";
const replyTo = `edgekit/v1/res/browser/${process.pid}`;
const id = `js-${process.pid}`;
const client = mqtt.connect(url, { protocolVersion: v5 ? 5 : 4, reconnectPeriod: 0 });
let cancelled = false;
let ended = false; // then the broker may be gone before a WebSocket's last frame
const fail = (error) => { console.error(error); process.exit(1); };
setTimeout(fail, 60_000, "no final within 60 s").unref();
client.on("error", (error) => { if (!ended) fail(error); });

client.on("connect", async () => {
  await client.subscribeAsync(replyTo, { qos: 1 });
  const properties = {
    responseTopic: replyTo, correlationData: Buffer.from(id), messageExpiryInterval: 60,
    contentType: "application/json", userProperties: { "ek-id": id },
  };
  const envelope = { v: 1, id, reply_to: replyTo, deadline_ms: 60_000, body: JSON.parse(body) };
  if (v5) await client.publishAsync(topic, body, { qos: 1, properties });
  else await client.publishAsync(topic, JSON.stringify(envelope), { qos: 1 });
});

client.on("message", async (_topic, payload, packet) => {
  const user = packet.properties?.userProperties ?? {};
  const said = JSON.parse(payload);
  const reply = v5 ? { kind: user["ek-kind"], id: user["ek-id"], payload: said } : said;
  console.log(JSON.stringify(reply));
  if (reply.kind === "delta" && cancel === "cancel" && !cancelled) {
    cancelled = true;
    await client.publishAsync(control, JSON.stringify({ kind: "cancel", id }));
  }
  if (reply.kind === "final" || reply.kind === "error") {
    ended = true;
    await client.endAsync();
  }
});
