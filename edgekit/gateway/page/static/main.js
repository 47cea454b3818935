// The page: which view is shown, the key, and the connection to the gateway.

import { Refused, key, takeKeyFromAddress } from "./api.js";
import { ChatView } from "./chat.js";
import { at, put } from "./dom.js";
import { FleetView } from "./fleet.js";
import { follow } from "./live.js";
import { Fleet } from "./model.js";

const GONE = ["lost", "offline"];

takeKeyFromAddress();
const fleet = new Fleet();
const view = new FleetView(fleet);
const chat = new ChatView(fleet, askForKey);
let following = null;

function show() {
  const [name, value] = location.hash.slice(1).split("=");
  const isChat = name === "chat";
  at("fleet-view").hidden = isChat;
  at("chat-view").hidden = !isChat;
  document.body.dataset.view = isChat ? "chat" : "fleet";
  for (const [id, current] of [["to-fleet", !isChat], ["to-chat", isChat]])
    if (current) at(id).setAttribute("aria-current", "page");
    else at(id).removeAttribute("aria-current");
  document.title = `${isChat ? "Chat" : "Fleet"} · edgekit`;
  if (value) chat.choose(decoded(value));
  chat.refresh();
  view.draw();
}

/** A part of the address; as it is where somebody wrote it by hand, and wrongly. */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function start() {
  following?.abort();
  if (document.hidden) return; // it starts when it is seen
  following = new AbortController();
  follow({ event: take, state: live, refused: askForKey }, following.signal);
}

function take(event, data) {
  const before = new Map((event === "devices" ? data.devices : []).map((d) => [d.name, fleet.devices.get(d.name)?.state]));
  const names = fleet.take(event, data);
  const gone = (data.devices ?? []).filter((d) => GONE.includes(d.state) && before.get(d.name) && !GONE.includes(before.get(d.name)));
  if (gone.length) put(at("announce"), `${gone.map((d) => `${d.name} is ${d.state}`).slice(0, 5).join(", ")}${gone.length > 5 ? ` and ${gone.length - 5} more` : ""}.`);
  view.take(names);
  if (event !== "speeds") chat.refresh();
}

function live(state, since, error) {
  const good = state === "on" && fleet.broker;
  at("live").dataset.live = good ? "on" : "off";
  put(at("live-text"), good ? "live" : "not connected");
  document.body.classList.toggle("old", !good);
  at("banner").hidden = good;
  put(at("banner"), good ? "" : state === "on"
    ? "The gateway has lost its broker and connects again by itself. What is shown is what it heard last."
    : error instanceof Refused ? `The gateway refuses: ${error.message}. It is asked again by itself.`
    : `No connection to the gateway since ${new Date(since).toLocaleTimeString()}. It is tried again by itself.`);
}

function askForKey(error) {
  following?.abort();
  live("off", Date.now());
  at("banner").hidden = true;
  put(at("key-wrong"), key.get() && error?.status === 401 ? "The gateway does not know this key." : "");
  at("key-forget").hidden = !key.get();
  at("key-field").value = "";
  if (!at("key-dialog").open) at("key-dialog").showModal();
}

at("key").addEventListener("click", () => askForKey());
at("key-dialog").addEventListener("close", () => {
  if (key.get()) start();
  else {
    at("banner").hidden = false;
    put(at("banner"), "The gateway tells nothing without an API key: the button at the top right takes one.");
  }
});
at("key-forget").addEventListener("click", () => {
  key.forget();
  location.reload();
});
at("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key.set(at("key-field").value.trim());
  at("key-dialog").close();
});

const THEMES = ["", "light", "dark"];
function themed() {
  const now = document.documentElement.dataset.theme ?? "";
  at("theme").setAttribute("aria-label", `Theme: ${now || "automatic"}`);
  at("theme").title = at("theme").getAttribute("aria-label");
}
at("theme").addEventListener("click", () => {
  const next = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme ?? "") + 1) % THEMES.length];
  if (next) document.documentElement.dataset.theme = next;
  else delete document.documentElement.dataset.theme;
  localStorage.setItem("edgekit-theme", next);
  themed();
});

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the part of the address behind # names the view
  at("main").focus();
});
addEventListener("hashchange", () => {
  if (takeKeyFromAddress()) {
    if (at("key-dialog").open) at("key-dialog").close(); // which starts
    else start();
  }
  show();
});
// A browser has six connections to a gateway for all tabs together: who is not seen needs none
document.addEventListener("visibilitychange", () => {
  if (document.hidden) following?.abort();
  else if (key.get() && !at("key-dialog").open) start();
});
themed();
show();
if (key.get()) start();
else askForKey();
