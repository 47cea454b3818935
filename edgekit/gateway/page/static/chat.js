// A conversation with a device, a pool or a model. What a model writes is shown as text, never as markup.

import { Refused, ask, events, refusal } from "./api.js";
import { at, framed, make, options, put } from "./dom.js";
import { count, figure } from "./words.js";

const HEAD_MS = 30000; // the gateway begins an answer within 15 s

export class ChatView {
  constructor(fleet, keyNeeded) {
    this.fleet = fleet;
    this.keyNeeded = keyNeeded;
    this.messages = [];
    this.asking = null; // an AbortController while an answer comes
    this.wanted = "";
    at("composer").addEventListener("submit", (event) => { event.preventDefault(); this.#send(); });
    at("stop").addEventListener("click", () => this.asking?.abort());
    at("anew").addEventListener("click", () => this.#anew());
    at("chat-view").addEventListener("keydown", (event) => { if (event.key === "Escape") this.asking?.abort(); });
    at("prompt").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      at("composer").requestSubmit();
    });
    at("target").addEventListener("change", () => { this.wanted = ""; });
    this.#empty();
  }

  /** Show who takes prompts now. */
  refresh = framed(() => {
    const found = this.fleet.targets();
    const select = at("target");
    const chosen = this.wanted || select.value;
    const there = found.some((each) => each.options.some(([value]) => value === chosen));
    // A conversation stays where it is: it does not move by itself when its device goes away
    const stays = this.wanted || this.messages.length > 0;
    const away = chosen && stays && !there ? [[chosen, `${chosen} (does not take prompts)`]] : [];
    options(select, found.length || away.length ? [...away, ...found] : [["", "no device takes prompts"]]);
    if (there || away.length) select.value = chosen;
    at("send").disabled = !select.value || away.length > 0;
  });

  /** Choose `device:NAME`, `pool:NAME` or a model, once it is there. */
  choose(target) {
    this.wanted = target;
    this.refresh();
  }

  #empty() {
    at("turns").replaceChildren(make("p", { className: "empty",
      textContent: "Choose a model, a pool or a device, and write to it." }));
  }

  #anew() {
    this.asking?.abort();
    this.messages = [];
    this.#empty();
    at("prompt").focus();
  }

  async #send() {
    const text = at("prompt").value.trim();
    const model = at("target").value;
    if (!text || !model || this.asking) return;
    this.messages.push({ role: "user", content: text });
    const turns = at("turns");
    if (this.messages.length === 1) turns.replaceChildren();
    turns.append(make("article", { className: "turn user", "aria-label": "You" }, make("p", { className: "text", textContent: text })));
    at("prompt").value = "";
    const turn = new Turn(turns);
    const messages = this.messages;
    this.#busy(new AbortController());
    try {
      const answer = await this.#stream(turn, model);
      // also one that was stopped, where something of it has come
      if (answer) messages.push({ role: "assistant", content: answer });
      else this.#unanswered(messages, text);
    } catch (error) {
      turn.fail(explained(error));
      this.#unanswered(messages, text);
      if (error instanceof Refused && error.status === 401) this.keyNeeded(error);
    } finally {
      this.#busy(null);
    }
  }

  /** A turn without an answer is no part of the conversation: templates refuse two of a person. */
  #unanswered(messages, text) {
    messages.pop();
    if (this.messages === messages && !at("prompt").value) at("prompt").value = text;
  }

  async #stream(turn, model) {
    const system = at("system").value.trim();
    const most = Number(at("most").value);
    const body = {
      model, stream: true, stream_options: { include_usage: true },
      messages: [...(system ? [{ role: "system", content: system }] : []), ...this.messages],
      ...(most > 0 && { max_tokens: Math.floor(most) }),
    };
    const { signal } = this.asking;
    const late = new AbortController();
    const waiting = setTimeout(() => late.abort(new Error(`nothing for ${HEAD_MS / 1000} s`)), HEAD_MS);
    try {
      const answer = await ask("/v1/chat/completions", { body, signal: AbortSignal.any([signal, late.signal]) });
      clearTimeout(waiting);
      turn.device = answer.headers.get("edgekit-device") ?? "";
      let whole = false;
      for await (const { data } of events(answer)) {
        whole = data === "[DONE]";
        if (whole) break;
        const chunk = JSON.parse(data);
        if (chunk.error) throw refusal(500, chunk);
        turn.take(chunk);
      }
      if (!whole) throw new Refused(0, "", "The connection ended before the answer did. Send it again.");
      turn.end();
    } catch (error) {
      if (!signal.aborted) throw error;
      turn.end("stopped");
    } finally {
      clearTimeout(waiting);
    }
    return turn.text;
  }

  #busy(asking) {
    this.asking = asking;
    at("stop").hidden = !asking;
    at("send").hidden = Boolean(asking);
    at("turns").setAttribute("aria-busy", String(Boolean(asking)));
    if (!asking) at("prompt").focus({ preventScroll: true });
  }
}

/** One answer as it comes. */
class Turn {
  text = "";
  device = "";
  #began = performance.now();
  #first = 0;
  #usage = null;
  #reason = "";
  #pending = "";
  #thought = "";

  constructor(turns) {
    this.turns = turns;
    this.shown = document.createTextNode("");
    this.note = make("p", { className: "note", textContent: "waiting for a device …" });
    this.element = make("article", { className: "turn", "aria-label": "Answer" }, make("p", { className: "text" }, this.shown), this.note);
    turns.append(this.element);
    turns.scrollTop = turns.scrollHeight;
  }

  take(chunk) {
    const choice = chunk.choices?.[0];
    this.#usage = chunk.usage ?? this.#usage;
    this.#reason = choice?.finish_reason ?? this.#reason;
    const piece = choice?.delta?.content ?? "";
    this.#thought += choice?.delta?.reasoning_content ?? "";
    if ((piece || this.#thought) && !this.#first) this.#first = performance.now();
    this.text += piece;
    this.#pending += piece;
    this.#flush();
  }

  #flush = framed(() => this.#write());

  #write() {
    const near = this.turns.scrollHeight - this.turns.scrollTop - this.turns.clientHeight < 60;
    this.shown.appendData(this.#pending);
    this.#pending = "";
    if (this.#thought) this.#think();
    if (this.#first && !this.ended) put(this.note, this.device);
    if (near) this.turns.scrollTop = this.turns.scrollHeight;
  }

  #think() {
    if (!this.thinking) {
      this.thinking = make("p", { className: "text" });
      this.element.prepend(make("details", { className: "thinking" }, make("summary", { textContent: "Thinking" }), this.thinking));
    }
    put(this.thinking, this.#thought);
  }

  end(how = "") {
    const said = [this.device];
    const tokens = this.#usage?.completion_tokens;
    const seconds = (performance.now() - this.#first) / 1000;
    if (tokens) said.push(`${count(tokens)} tokens`);
    if (tokens > 1 && seconds > 0) said.push(`${figure((tokens - 1) / seconds)} tokens/s`);
    if (this.#first) said.push(`first after ${((this.#first - this.#began) / 1000).toFixed(2)} s`);
    said.push(how || { length: "cut at the limit of tokens", cancelled: "cancelled" }[this.#reason] || "");
    this.#close(said.filter(Boolean).join(" · "));
    at("announce").textContent = how ? "Answer stopped." : `Answer: ${this.text}`;
  }

  fail(why) {
    this.element.classList.add("failed");
    this.note.setAttribute("role", "alert");
    this.#close([this.device, why].filter(Boolean).join(": "));
  }

  #close(text) {
    this.ended = true;
    this.#write();
    put(this.note, text);
    this.turns.scrollTop = this.turns.scrollHeight;
  }
}

function explained(error) {
  return error instanceof Refused ? error.message : `The gateway does not answer (${error.message}).`;
}
