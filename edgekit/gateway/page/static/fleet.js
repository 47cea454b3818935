// The view of the fleet: figures, filters, and a row for each device.

import { openDevice, showDevice } from "./device.js";
import { at, framed, make, options, put } from "./dom.js";
import { STATES, TAKES, select } from "./model.js";
import { showRollouts } from "./rollouts.js";
import { Row } from "./rows.js";
import { compare, count, counted, figure, state } from "./words.js";

const HEADS = [
  ["name", "Device"], ["state", "State"], ["model", "Model"], ["release", "Release"], ["", "Pools"],
  ["load", "Prompts"], ["tok_s", "Tokens/s"], ["temp_c", "Temp."], ["mem_free_mb", "Free memory"],
];
const STEP = 300; // rows at once; a button shows more
const ORDER_MS = 1000; // so often at most rows change places by themselves

export class FleetView {
  constructor(fleet) {
    this.fleet = fleet;
    this.rows = new Map();
    this.changed = new Set();
    this.query = { text: "", state: null, pool: "", group: "", model: "", by: "", sort: "name", down: false };
    this.most = STEP;
    this.order = "";
    this.ordered = 0;
    this.draw = framed(() => this.#draw());
    this.#listen();
    this.#choices();
    setInterval(() => this.draw(), 5000); // ages go on
  }

  /** Devices have changed; they are drawn in the next frame. */
  take(names) {
    for (const name of names) this.changed.add(name);
    this.draw();
  }

  #listen() {
    const again = () => { this.most = STEP; this.ordered = 0; this.draw(); };
    at("tools").addEventListener("submit", (event) => event.preventDefault());
    at("filter").addEventListener("input", () => { this.query.text = at("filter").value; again(); });
    for (const name of ["pool", "group", "model", "by"])
      at(name).addEventListener("change", () => { this.query[name] = at(name).value; again(); });
    at("sort").addEventListener("change", () => { this.#sort(at("sort").value, false); again(); });
    at("more").addEventListener("click", () => { this.most += STEP; this.ordered = 0; this.draw(); });
    at("chips").addEventListener("click", (event) => {
      const chip = event.target.closest("button");
      if (!chip) return;
      const wanted = chip.dataset.all ? null : chip.dataset.state;
      this.query.state = this.query.state === wanted ? null : wanted;
      again();
    });
    at("heads").replaceChildren(...HEADS.map(([key, text]) => {
      const head = make("th", { role: "columnheader", scope: "col" });
      head.dataset.key = key;
      if (!key) head.textContent = text;
      else {
        const button = make("button", { type: "button", textContent: text });
        button.addEventListener("click", () => {
          this.#sort(key, this.query.sort === key && !this.query.down);
          again();
        });
        head.append(button);
      }
      return head;
    }));
  }

  #sort(key, down) {
    this.query.sort = key;
    this.query.down = down;
    at("sort").value = key;
  }

  #draw() {
    if (at("fleet-view").hidden || !this.fleet.known) return;
    this.#figures();
    this.#choices();
    showRollouts(this.fleet.rollouts, Date.now() / 1000 + this.fleet.ahead);
    if (performance.now() - this.ordered >= ORDER_MS) this.#place();
    for (const name of this.changed) {
      const [row, device] = [this.rows.get(name), this.fleet.devices.get(name)];
      if (row && device) row.show(device, this.fleet.lines.get(name));
    }
    this.changed.clear();
    if (at("device").open) showDevice(this.fleet);
  }

  #figures() {
    const sums = this.fleet.sums();
    for (const [name, value] of Object.entries(sums))
      put(at(`sum-${name}`), name === "speed" ? figure(value) : count(value));
    at("sum-trouble").parentElement.classList.toggle("some", sums.trouble > 0);
  }

  #choices() {
    const all = [...this.fleet.devices.values()];
    const some = (names, first) =>
      [["", first], ...[...new Set(names)].filter(Boolean).sort(compare).map((name) => [name, name])];
    options(at("pool"), some(all.flatMap((d) => d.pools), "all"));
    options(at("model"), some(all.map((d) => d.model), "all"));
    options(at("group"), some(Object.keys(this.fleet.groups), "all"));
    at("group-label").hidden = !Object.keys(this.fleet.groups).length;
    for (const name of ["pool", "group", "model"]) this.query[name] = at(name).value;
    const counts = new Map();
    for (const d of all) counts.set(d.state, (counts.get(d.state) ?? 0) + 1);
    if (this.query.state !== null && !counts.has(this.query.state)) counts.set(this.query.state, 0);
    const found = [...counts].sort(([a], [b]) => place(b) - place(a));
    const wanted = [["", "all", all.length, this.query.state === null], ...found.map(([name, n]) =>
      [name, state(name), n, this.query.state === name])];
    this.#chips(wanted);
  }

  /** The chips stay the same elements, for one of them may have the focus. */
  #chips(wanted) {
    const chips = at("chips");
    while (chips.children.length > wanted.length) chips.lastElementChild.remove();
    while (chips.children.length < wanted.length)
      chips.append(make("button", { type: "button" }, make("i", { "aria-hidden": "true" }), make("span"), make("b")));
    wanted.forEach(([name, text, n, pressed], index) => {
      const chip = chips.children[index];
      chip.dataset.state = name;
      chip.dataset.all = index ? "" : "yes";
      chip.setAttribute("aria-pressed", String(pressed));
      put(chip.children[1], `${text} `);
      put(chip.children[2], count(n));
    });
  }

  /** Put the rows into their order, where it is another one. */
  #place() {
    this.ordered = performance.now();
    const sections = select(this.fleet, this.query);
    const total = sections.reduce((sum, each) => sum + each.devices.length, 0);
    this.#says(total);
    let left = this.most;
    const shown = sections.map((each) => {
      const devices = each.devices.slice(0, left);
      left -= devices.length;
      return { ...each, all: each.devices, devices };
    }).filter((each) => each.devices.length);
    const order = JSON.stringify([this.query.by, shown.map((each) => [heading(each, this.query.by), each.devices.map((d) => d.name)])]);
    if (order === this.order) return;
    this.order = order;
    const focus = document.activeElement;
    const kept = new Set();
    const bodies = shown.map((each) => {
      const rows = each.devices.map((device) => {
        kept.add(device.name);
        if (!this.rows.has(device.name)) this.rows.set(device.name, new Row(device.name, (name) => openDevice(this.fleet, name)));
        const row = this.rows.get(device.name);
        row.show(device, this.fleet.lines.get(device.name));
        return row.element;
      });
      const body = make("tbody", { role: "rowgroup" });
      if (this.query.by) body.append(make("tr", { role: "row", className: "heading" },
        make("th", { role: "rowheader", scope: "rowgroup", colSpan: HEADS.length, textContent: heading(each, this.query.by) })));
      body.append(...rows);
      return body;
    });
    for (const name of this.rows.keys()) if (!kept.has(name)) this.rows.delete(name);
    const table = at("devices");
    table.replaceChildren(table.tHead, ...bodies);
    if (focus?.isConnected && focus !== document.activeElement) focus.focus({ preventScroll: true });
  }

  #says(total) {
    const { fleet, query } = this;
    at("devices").hidden = !total;
    at("empty").hidden = total > 0;
    put(at("empty"), fleet.devices.size
      ? "No device matches."
      : "No device has announced itself at the broker yet. `edgekit push DEVICE` brings a release to one and starts it.");
    at("more").hidden = total <= this.most;
    put(at("more"), `Show more (${count(this.most)} of ${count(total)} are shown)`);
    for (const head of at("heads").children)
      if (head.dataset.key !== query.sort) head.removeAttribute("aria-sort");
      else head.setAttribute("aria-sort", query.down ? "descending" : "ascending");
  }
}

const place = (name) => STATES.includes(name) ? STATES.indexOf(name) : STATES.length;

function heading(each, by) {
  const name = by === "state" ? state(each.heading) : by === "release" ? each.heading.slice(0, 19) : each.heading;
  const takes = each.all.filter((d) => TAKES.includes(d.state)).length;
  return `${name || `no ${by.replace(/s$/, "")}`} · ${counted(each.all.length, "device")}, ${count(takes)} answering`;
}
