// The fleet as the gateway tells it, and which devices are shown in which order. Pure.

import { compare } from "./words.js";

export const TAKES = ["ready", "busy", "degraded"];
export const TROUBLE = ["lost", "offline", "degraded", "read_only"];
/** States by how much they want a look. */
export const STATES = ["lost", "offline", "degraded", "read_only", "draining", "starting", "", "busy", "ready"];

export class Fleet {
  devices = new Map();
  lines = new Map();
  groups = {};
  rollouts = [];
  broker = true;
  known = false;
  /** Seconds by which the gateway's clock is ahead of ours. */
  ahead = 0;

  /** Take an event; returns the names of the devices that it is about. */
  take(event, data) {
    if (event === "fleet") return this.#whole(data);
    if (event === "devices") return this.#changed(data);
    if (event === "speeds") return this.#speeds(data);
    if (event === "project") {
      this.groups = data.groups;
      this.rollouts = data.rollouts;
    }
    return [];
  }

  #whole(data) {
    const before = [...this.devices.keys()];
    this.devices = new Map(data.devices.map((device) => [device.name, device]));
    this.lines = new Map(Object.entries(data.lines));
    this.ahead = data.at - Date.now() / 1000;
    this.broker = data.broker;
    this.known = true;
    this.groups = data.groups;
    this.rollouts = data.rollouts;
    return [...before, ...this.devices.keys()];
  }

  #changed(data) {
    for (const device of data.devices) this.devices.set(device.name, device);
    for (const name of data.gone) this.devices.delete(name);
    this.broker = data.broker;
    return [...data.devices.map((device) => device.name), ...data.gone];
  }

  /** A slot has ended: every line goes on, and who is not named did not answer. */
  #speeds(data) {
    const length = this.lines.values().next().value?.length ?? 120;
    for (const name of Object.keys(data))
      if (!this.lines.has(name)) this.lines.set(name, new Array(length).fill(0));
    const moved = [...this.lines.keys()];
    for (const [name, line] of this.lines) {
      const next = [...line.slice(1), data[name] ?? 0];
      if (next.some(Boolean)) this.lines.set(name, next);
      else this.lines.delete(name);
    }
    return moved;
  }

  /** The groups of fleet.toml that a device is in. */
  groupsOf(name) {
    return Object.keys(this.groups).filter((group) => this.groups[group].includes(name));
  }

  /** The figures above the table. */
  sums() {
    const all = [...this.devices.values()];
    const takes = all.filter((d) => TAKES.includes(d.state));
    const add = (field, of) => of.reduce((sum, d) => sum + d[field], 0);
    return {
      devices: all.length,
      taking: takes.length,
      active: add("active", takes),
      queue: add("queue", takes),
      speed: add("tok_s", takes.filter((d) => d.active > 0)),
      trouble: all.filter((d) => TROUBLE.includes(d.state)).length,
    };
  }

  /** What a prompt may be for, as options of a select: models, pools and devices that take prompts. */
  targets() {
    const takes = [...this.devices.values()].filter((d) => d.model && TAKES.includes(d.state));
    const named = (names, prefix = "") =>
      [...new Set(names)].sort(compare).map((name) => [prefix + name, name]);
    return [
      { label: "Models", options: named(takes.map((d) => d.model)) },
      { label: "Pools", options: named(takes.flatMap((d) => d.pools), "pool:") },
      { label: "Devices", options: named(takes.map((d) => d.name), "device:") },
    ].filter((each) => each.options.length);
  }
}

const VALUES = {
  name: (d) => d.name,
  state: (d) => STATES.indexOf(d.state),
  model: (d) => `${d.model}:${d.version}`,
  release: (d) => d.release,
  load: (d) => -(d.queue + d.active / Math.max(1, d.slots)),
  tok_s: (d) => -d.tok_s,
  temp_c: (d) => -(d.temp_c ?? -300),
  mem_free_mb: (d) => d.mem_free_mb ?? Infinity,
};

/**
 * The devices to show, in sections: [{ heading, devices }].
 * query: { text, state, pool, group, model, by, sort, down }.
 */
export function select(fleet, query) {
  const words = query.text.toLowerCase().split(/\s+/).filter(Boolean);
  const found = [...fleet.devices.values()].filter((d) => {
    if (query.state !== null && d.state !== query.state) return false;
    if (query.pool && !d.pools.includes(query.pool)) return false;
    if (query.group && !(fleet.groups[query.group] ?? []).includes(d.name)) return false;
    if (query.model && d.model !== query.model) return false;
    const all = [d.name, d.model, d.version, d.release, d.state, ...d.pools].join(" ").toLowerCase();
    return words.every((word) => all.includes(word));
  });
  const value = VALUES[query.sort];
  const turn = query.down ? -1 : 1;
  found.sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    const order = typeof x === "string" ? compare(x, y) : x - y || 0;
    return turn * order || compare(a.name, b.name);
  });
  if (!query.by) return found.length ? [{ heading: "", devices: found }] : [];
  const sections = new Map();
  for (const device of found) {
    const heading = section(fleet, query.by, device);
    if (!sections.has(heading)) sections.set(heading, []);
    sections.get(heading).push(device);
  }
  const order = (a, b) => query.by === "state" ? STATES.indexOf(a) - STATES.indexOf(b) : compare(a, b);
  return [...sections].sort(([a], [b]) => order(a, b)).map(([heading, devices]) => ({ heading, devices }));
}

function section(fleet, by, device) {
  if (by === "pools") return device.pools.join(" + ");
  if (by === "groups") return fleet.groupsOf(device.name).join(" + ");
  return device[by];
}
