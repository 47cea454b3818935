// Ask a device: `node ask.mjs mqtt://HOST:PORT DEVICE QUESTION [FIELDS]`; needs the package mqtt 5.
import { randomUUID } from "node:crypto";
import mqtt from "mqtt";

const [broker, device, question, fields = "{}"] = process.argv.slice(2), id = randomUUID();
const me = new URL(broker).username || "ask", messages = [{ role: "user", content: question }];
const prompt = JSON.stringify({ messages, ...JSON.parse(fields) });
const responseTopic = `edgekit/v1/res/${me}/${id}`;
const exit = (text, code = 1) => (console[code ? "error" : "log"](text), process.exit(code));
const fail = (error) => exit(`${device} does not answer: ${error.message || error.code}`);
const wait = (s) => setTimeout(() => fail({ message: `nothing came for ${s} s` }), s * 1000);

let shown = "", timer = wait(15);
const client = mqtt.connect(broker, { protocolVersion: 5, reconnectPeriod: 0 });
client.on("error", fail);
client.on("close", () => fail({ message: "the connection is lost" }));
client.on("packetreceive", ({ cmd, reasonCode }) => { // which MQTT.js takes for a success
  if (cmd === "puback" && reasonCode === 0x10) fail({ message: "No matching subscribers" });
});
client.on("message", (_topic, payload, { properties }) => {
  const body = JSON.parse(payload), kind = properties.userProperties["ek-kind"];
  clearTimeout(timer);
  timer = wait(300);
  if (kind === "delta") {
    shown += body.choices[0].delta.content ?? ""; // none while the model thinks
    process.stdout.write(body.choices[0].delta.content ?? "");
  } else if (kind === "final") { // all of the text, whatever was lost before
    const { message } = body.choices[0], text = message.content ?? JSON.stringify(message);
    exit(text.startsWith(shown) ? text.slice(shown.length) : text, 0);
  } else if (kind === "error") exit(`${device}: ${body.error.code}, ${body.error.message}`);
});
await client.subscribeAsync(responseTopic, { qos: 1 }).catch(fail); // first
const properties = { responseTopic, messageExpiryInterval: 300, userProperties: { "ek-id": id } };
const topic = `edgekit/v1/req/dev/${device}/${me}`;
await client.publishAsync(topic, prompt, { qos: 1, properties }).catch(fail);
