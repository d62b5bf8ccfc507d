// Operations as they happen, and questions in a dialog.

import { pageAt, say } from "./say.js";

const LOOK_MS = 2000;
let isLooking = false;
let wasAsked = false;

export function watchOperations() {
  const live = document.getElementById("live");
  if (!live) return;

  document.addEventListener("click", (event) => {
    const asked = event.target.closest("a[data-confirm]");
    const closed = event.target.closest("#dialog a[data-close]");
    if (asked && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
      event.preventDefault();
      ask(asked);
    } else if (closed) {
      event.preventDefault();
      document.getElementById("dialog").close();
    }
  });
  document.addEventListener("submit", (event) => {
    const button = event.submitter;
    if (!button) return;
    button.setAttribute("aria-busy", "true"); // a switch takes as long as the slowest process
    say("Under way");
  });

  if (live.dataset.watch === "events") watchEvents(live.dataset.after);
  setInterval(() => { if (!document.hidden) look(); }, LOOK_MS);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
}

async function ask(link) {
  const dialog = document.getElementById("dialog");
  const { page } = await pageAt(link.href);
  const form = page.querySelector("form.confirm");
  if (!form) {
    location.assign(link.href);
    return;
  }
  dialog.replaceChildren(form);
  const title = dialog.querySelector("h1");
  const heading = document.createElement("h2"); // the page has its h1
  heading.id = title.id;
  heading.textContent = title.textContent;
  title.replaceWith(heading);
  dialog.showModal();
  (dialog.querySelector("#override") ?? dialog.querySelector("[data-close]")).focus();
  dialog.addEventListener("close", () => { if (link.isConnected) link.focus(); }, { once: true });
}

function watchEvents(after) {
  const kinds = [
    "cut_over", "rollback", "gate_overruled", "fusion_set", "evaluation", "pruned", "restore",
    "generation_recorded", "generation_building", "generation_catching_up", "generation_verifying",
    "generation_ready", "generation_failed", "generation_retired", "generation_standby",
  ];
  const source = new EventSource(`/events?after=${after}`);
  const heard = (event) => {
    const told = JSON.parse(event.data);
    say(`${told.kind.replaceAll("_", " ")} ${told.generation ?? ""}`);
    look();
  };
  source.onmessage = heard;
  for (const kind of kinds) source.addEventListener(kind, heard);
  addEventListener("pagehide", () => source.close());
}

async function look() {
  if (isLooking) {
    wasAsked = true;
    return;
  }
  isLooking = true;
  const fresh = document.querySelector(".fresh");
  try {
    const { answer, page } = await pageAt("/operations");
    const after = page.getElementById("live");
    if (!answer.ok || !after) throw new Error(page.querySelector("h1")?.textContent ?? "no answer");
    if (!document.getElementById("dialog").open) replace(after);
    fresh.classList.remove("is-away");
    document.getElementById("fresh").textContent = "up to date";
  } catch (error) {
    fresh.classList.add("is-away");
    document.getElementById("fresh").textContent = `away since ${new Date().toLocaleTimeString()}; these figures are old`;
  }
  isLooking = false;
  if (wasAsked) {
    wasAsked = false;
    look();
  }
}

// Part by part, so that what did not change keeps its focus, its scrolling and its selection.
function replace(after) {
  const live = document.getElementById("live");
  const before = new Map([...live.children].map((part) => [part.id, part]));
  const ids = [...after.children].map((part) => part.id).join();
  if ([...before.keys()].join() !== ids) {
    keep(live, after);
    live.replaceChildren(...after.children);
    return;
  }
  for (const part of [...after.children]) {
    const old = before.get(part.id);
    keep(old, part);
    if (old.innerHTML === part.innerHTML || (old.contains(document.activeElement) && !part.id)) continue;
    const focused = old.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    old.replaceChildren(...part.childNodes);
    if (focused) old.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
  }
}

// What a person has opened stays open, whatever the server thinks.
function keep(old, fresh) {
  for (const details of old.querySelectorAll("details[id]")) {
    const same = fresh.querySelector(`#${CSS.escape(details.id)}`);
    if (same) same.open = details.open;
  }
}
