// The newest rollouts of the gateway's project.

import { at, make } from "./dom.js";
import { ago, counted } from "./words.js";

const ORDER = ["good", "on trial", "switching", "staged", "staging", "waiting", "away", "going back", "back", "failed"];
let told = "";

/** Show them; `now` in Unix seconds of the gateway. */
export function showRollouts(rollouts, now) {
  // Those that are over show for a day, for then the table itself says what runs
  const found = rollouts.filter((each) => !each.over || now - each.changed < 86400).slice(0, 3);
  const text = JSON.stringify([found, Math.floor(now / 60)]);
  if (text === told) return;
  told = text;
  at("rollouts").hidden = !found.length;
  at("rollout-list").replaceChildren(...found.map((each) => item(each, now)));
}

function item(rollout, now) {
  const states = Object.entries(rollout.counts).filter(([, n]) => n)
    .sort(([a], [b]) => ORDER.indexOf(a) - ORDER.indexOf(b));
  const bar = make("span", { className: "progress", "aria-hidden": "true" }, ...states.map(([state, n]) => {
    const part = make("i", { title: state });
    part.dataset.rollout = state;
    part.style.flexGrow = n;
    return part;
  }));
  const phase = make("b", { className: "phase", textContent: rollout.phase });
  phase.dataset.phase = rollout.phase;
  const wave = rollout.over ? "" : `wave ${rollout.wave} of ${rollout.waves}`;
  const words = states.map(([state, n]) => `${n} ${state}`).join(", ");
  return make("li", {},
    make("span", { className: "what" }, `${rollout.number} `, make("b", { textContent: rollout.release })),
    phase, bar,
    make("span", { className: "soft" }, [wave, words, `last change ${ago(now - rollout.changed)} ago`,
      rollout.held || rollout.over ? "" : "nobody runs it"].filter(Boolean).join(" · ")));
}
