// The search page: hits without loading the page anew, and thumbs.

import { pageAt, say, send } from "./say.js";

let latest = 0;

export function watchSearch() {
  const form = document.getElementById("search");
  if (!form) return;

  document.addEventListener("submit", (event) => {
    if (event.target.id === "search") {
      event.preventDefault();
      show(addressOf(event.target), true);
    } else if (event.target.classList.contains("thumbs") && event.submitter) {
      event.preventDefault();
      judge(event.target, event.submitter);
    }
  });
  document.addEventListener("change", (event) => {
    const isChoice = event.target.matches("#search input[type=radio], #search input[type=checkbox], #search select");
    if (isChoice && document.getElementById("q").value.trim()) show(addressOf(event.target.form), true);
  });
  document.addEventListener("keydown", (event) => {
    const isTyping = event.target.closest("input, textarea, select");
    if (event.key === "/" && !isTyping && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      document.getElementById("q").select();
    }
  });
  addEventListener("popstate", () => show(location.href, false));
}

function addressOf(form) {
  const asked = new URLSearchParams();
  for (const [name, value] of new FormData(form)) {
    const isUsual = (name === "k" && value === "10") || (name === "mode" && value === "hybrid");
    if (value.trim() && !isUsual) asked.append(name, value.trim());
  }
  return asked.size ? `/?${asked}` : "/";
}

async function show(url, isNew) {
  const number = ++latest;
  const results = document.getElementById("results");
  results.setAttribute("aria-busy", "true");
  let found;
  try {
    found = await pageAt(url);
  } catch {
    if (number === latest) location.assign(url); // the browser says best what is wrong
    return;
  }
  if (number !== latest) return;
  const after = found.page.getElementById("results");
  if (!after || found.answer.redirected) {
    location.assign(url);
    return;
  }
  const focused = document.activeElement;
  const { name, value } = focused;
  const form = document.getElementById("search");
  form.replaceWith(found.page.getElementById("search"));
  results.replaceWith(after);
  document.querySelector("h1").className = found.page.querySelector("h1").className;
  document.title = found.page.title;
  if (isNew) history.pushState(null, "", url);
  if (name && !focused.isConnected) {
    const again = [...document.querySelectorAll(`#search [name="${name}"]`)];
    const same = again.find((item) => item.value === value) ?? again[0];
    same?.focus({ preventScroll: true });
  }
  say(document.querySelector("#summary, #problem, .none")?.textContent ?? "");
}

async function judge(form, button) {
  const given = new FormData(form, button);
  try {
    await send("/feedback", {
      kind: "judgment",
      query_id: given.get("query_id"),
      doc_id: given.get("doc_id"),
      position: Number(given.get("position")),
      value: Number(given.get("value")),
    });
  } catch (error) {
    say(`Not kept: ${error.message}`);
    button.title = `Not kept: ${error.message}`;
    return;
  }
  for (const other of form.querySelectorAll("button")) other.setAttribute("aria-pressed", String(other === button));
  say(`Kept: ${button.getAttribute("aria-label")}`);
}
