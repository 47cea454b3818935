// One device as a row. Only what differs is written, so that 200 rows a second stay cheap.

import { at, draw, put } from "./dom.js";
import { figure, memory, short, state } from "./words.js";

const HIGH = 20;
const HOT = 80;
const FULL_MB = 200;

export class Row {
  constructor(name, open) {
    this.element = at("row").content.firstElementChild.cloneNode(true);
    const button = this.element.querySelector("button");
    button.textContent = name;
    button.addEventListener("click", () => open(name));
    const cell = (kind) => this.element.querySelector(`.${kind}`);
    this.state = cell("state").lastElementChild;
    this.cells = Object.fromEntries(
      ["model", "release", "pools", "load", "temp", "memory"].map((kind) => [kind, cell(kind)]));
    [this.speed, this.line] = cell("speed").children;
    this.shown = null;
    this.drawn = undefined;
  }

  /** Show a device; `line` is its speed over time, undefined where it has not answered. */
  show(device, line) {
    if (device !== this.shown) this.#write(device);
    if (line !== this.drawn) {
      this.drawn = line;
      this.line.classList.toggle("none", !line);
      if (line) draw(this.line, line, HIGH);
    }
  }

  #write(d) {
    this.shown = d;
    if (this.element.dataset.state !== d.state) this.element.dataset.state = d.state;
    put(this.state, state(d.state) + (d.reason ? `: ${state(d.reason)}` : ""));
    put(this.cells.model, d.model + (d.version ? `:${d.version}` : ""));
    put(this.cells.release, short(d.release));
    put(this.cells.pools, d.pools.join(", "));
    put(this.cells.load, `${d.active}/${d.slots}` + (d.queue ? ` +${d.queue}` : ""));
    put(this.speed, d.tok_s ? figure(d.tok_s) : "");
    put(this.cells.temp, d.temp_c === null ? "" : `${Math.round(d.temp_c)} °C`);
    put(this.cells.memory, d.mem_free_mb === null ? "" : memory(d.mem_free_mb));
    this.cells.load.classList.toggle("warn", d.queue > 0);
    this.cells.temp.classList.toggle("warn", d.temp_c >= HOT);
    this.cells.memory.classList.toggle("warn", d.mem_free_mb !== null && d.mem_free_mb < FULL_MB);
  }
}
