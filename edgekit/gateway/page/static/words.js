// Figures as people read them. Pure.

const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

/** Compare two texts; pi-2 comes before pi-10. */
export const compare = (a, b) => collator.compare(a, b);

/** A speed or another figure: one decimal below 100. */
export const figure = (value) => (value >= 100 ? String(Math.round(value)) : value.toFixed(1));

/** Megabytes as MB or GB. */
export const memory = (mb) => (mb >= 1024 ? `${(mb / 1024).toFixed(1)} GB` : `${Math.round(mb)} MB`);

/** A count with thin gaps between thousands. */
export const count = (value) => Math.round(value).toLocaleString("en").replaceAll(",", "\u202f");

/** "1 device", "3 devices". */
export const counted = (n, noun) => `${count(n)} ${noun}${n === 1 ? "" : "s"}`;

/** How long ago, in the largest unit. */
export function ago(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  for (const [unit, name] of [[86400, "d"], [3600, "h"], [60, "min"]])
    if (whole >= unit) return `${Math.floor(whole / unit)} ${name}`;
  return `${whole} s`;
}

const YEAR = 365 * 86400;

/**
 * How long a device has been in its state; `now` in Unix seconds of the gateway. Its own clock is asked
 * only about what began before the gateway listened, and not where what it says cannot be.
 */
export function lasting(device, now) {
  const { since, heard_first: first, heard_begin: exact } = device;
  if (exact) return ago(now - first);
  const own = since > first - YEAR && since <= first;
  return own ? `${ago(now - since)} by its clock` : `${ago(now - first)} or longer`;
}

/** The beginning of a digest, as `edgekit` prints it. */
export const short = (digest) => digest.replace(/^sha256:/, "").slice(0, 12);

/** A state of the protocol in words. */
export const state = (name) => (name || "unknown").replaceAll("_", " ");
