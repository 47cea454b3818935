// Keeps one stream of the fleet's events open.

import { Refused, ask, events } from "./api.js";

const FIRST_MS = 500;
const LONGEST_MS = 10000;
const SILENT_MS = 25000; // the gateway says something every 10 s

/** Follow the fleet until `signal` aborts. on: { event(name, data), state("on" | "off", since, error), refused(error) }. */
export async function follow(on, signal) {
  let wait = FIRST_MS;
  let since = Date.now();
  while (!signal.aborted) {
    const alone = new AbortController();
    const both = AbortSignal.any([signal, alone.signal]);
    let why = null;
    let silent = setTimeout(() => alone.abort(), SILENT_MS);
    try {
      const answer = await ask("/fleet/events", { signal: both });
      for await (const { event, data } of events(answer, () => {
        clearTimeout(silent);
        silent = setTimeout(() => alone.abort(), SILENT_MS);
      })) {
        try {
          on.event(event, JSON.parse(data));
        } catch (error) { // a defect of the page, not of the connection
          console.error(error);
        }
        on.state("on");
        wait = FIRST_MS;
        since = Date.now();
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Refused && error.status === 401) {
        on.refused(error);
        return;
      }
      why = error;
    } finally {
      clearTimeout(silent);
    }
    on.state("off", since, why);
    await new Promise((resolve) => setTimeout(resolve, wait));
    wait = Math.min(wait * 2, LONGEST_MS);
  }
}
