// The gateway over HTTP. The key is kept for this tab alone (sessionStorage).

const KEPT = "edgekit-key";

export const key = {
  get: () => sessionStorage.getItem(KEPT) ?? "",
  set: (text) => sessionStorage.setItem(KEPT, text),
  forget: () => sessionStorage.removeItem(KEPT),
};

/** `edgekit page` prints an address with a key behind #: take it, and out of the address bar. Whether there was one. */
export function takeKeyFromAddress() {
  const found = /^#key=([\w-]+)$/.exec(location.hash);
  if (!found) return false;
  key.set(found[1]);
  history.replaceState(null, "", "#fleet");
  return true;
}

/** What the gateway refused; `code` is its word for it. */
export class Refused extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** Ask the gateway; the answer's head is there and good. Throws Refused, or TypeError without a network. */
export async function ask(path, { body, signal } = {}) {
  const headers = { authorization: `Bearer ${key.get()}` };
  if (body) headers["content-type"] = "application/json";
  const answer = await fetch(path, {
    method: body ? "POST" : "GET", headers, signal, cache: "no-store", credentials: "omit",
    body: body && JSON.stringify(body),
  });
  if (answer.ok) return answer;
  throw refusal(answer.status, await answer.json().catch(() => ({})));
}

/** The error of a body of OpenAI's shape. */
export function refusal(status, body) {
  const { code, message } = body?.error ?? {};
  return new Refused(status, code ?? "", message ?? `the gateway answered with status ${status}`);
}

/** The server-sent events of an answer, as { event, data }; `heard` is called for whatever comes. */
export async function* events(answer, heard = () => {}) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      heard();
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        const found = { event: "message", data: "" };
        for (const line of part.split("\n")) {
          if (line.startsWith("event: ")) found.event = line.slice(7);
          if (line.startsWith("data: ")) found.data += line.slice(6);
        }
        if (found.data) yield found;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
