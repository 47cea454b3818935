// One device in full: what its card, its status and its metrics say.

import { at, draw, make, put } from "./dom.js";
import { ago, count, counted, figure, lasting, memory, state } from "./words.js";

const HIGH = 32;
let shown = "";

/** Open the sheet of a device. */
export function openDevice(fleet, name) {
  shown = name;
  showDevice(fleet);
  at("device").showModal();
}

/** Show the device of the open sheet as it is now. */
export function showDevice(fleet) {
  if (!shown) return;
  const d = fleet.devices.get(shown);
  put(at("device-name"), shown);
  const now = Date.now() / 1000 + fleet.ahead;
  at("device-state").dataset.state = d?.state ?? "lost";
  put(at("device-state"), d
    ? `${state(d.state)}${d.reason ? `: ${state(d.reason)}` : ""}, for ${lasting(d, now)}`
    : "The broker keeps nothing of it any more.");
  const line = fleet.lines.get(shown);
  at("device-line").classList.toggle("none", !line);
  if (line) draw(at("device-line"), line, HIGH);
  put(at("device-caption"), line
    ? `Tokens/s while it answered, last 10 minutes; at most ${figure(Math.max(...line))}`
    : "It has not answered in the last 10 minutes.");
  at("device-chat").href = `#chat=${encodeURIComponent(`device:${shown}`)}`;
  at("device-facts").replaceChildren(...(d ? facts(fleet, d, now) : []).flatMap(([name, value]) =>
    value ? [make("dt", { textContent: name }), make("dd", { textContent: value })] : []));
}

function facts(fleet, d, now) {
  const c = d.counts;
  return [
    ["Model", d.model && `${d.model}${d.version ? `:${d.version}` : ""}`],
    ["Release", d.release],
    ["Prompts", `${d.active} of ${d.slots} slots run, ${d.queue} wait${d.queue_limit ? ` (at most ${d.queue_limit})` : ""}`],
    ["Last answer", d.tok_s ? `${figure(d.tok_s)} tokens/s${d.ttft_ms ? `, first token after ${count(d.ttft_ms)} ms` : ""}` : ""],
    ["Temperature", d.temp_c === null ? "" : `${Math.round(d.temp_c)} °C`],
    ["Free memory", d.mem_free_mb === null ? "" : memory(d.mem_free_mb) + (d.mem_total_mb ? ` of ${memory(d.mem_total_mb)}` : "")],
    ["Pools", d.pools.join(", ")],
    ["Groups", fleet.groupsOf(d.name).join(", ")],
    ["Context", d.context_length ? `${counted(d.context_length, "token")}; an answer has at most ${count(d.max_answer_tokens)}` : ""],
    ["Serves", d.capabilities.join(", ")],
    ["Threads", d.threads ? String(d.threads) : ""],
    ["Agent", d.agent],
    ["Since its start", c ? `${counted(c.prompts, "prompt")}, ${count(c.failed)} without an answer, ${count(c.rejected)} not taken; `
      + `${count(c.tokens_in)} tokens read, ${count(c.tokens_out)} written` : ""],
    ["Worker restarts", c?.worker_restarts ? count(c.worker_restarts) : ""],
    ["Last heard", d.heard ? `${ago(now - d.heard)} ago` : "not since the gateway started"],
  ];
}

at("device").addEventListener("close", () => { shown = ""; });
at("device-close").addEventListener("click", () => at("device").close());
at("device-chat").addEventListener("click", () => at("device").close());
at("device").addEventListener("click", (event) => {
  if (event.target === at("device")) at("device").close(); // the backdrop
});
