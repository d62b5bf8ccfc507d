// The page to compare on: a file is read here, a vote does not leave the page.

import { say, send } from "./say.js";

export function watchCompare() {
  const file = document.getElementById("file");
  file?.addEventListener("change", async () => {
    if (!file.files.length) return;
    const text = await file.files[0].text();
    document.getElementById("queries").value = text;
    say(`${text.split("\n").filter((line) => line.trim()).length} lines from ${file.files[0].name}`);
  });

  const vote = document.querySelector("form.vote");
  vote?.addEventListener("submit", async (event) => {
    if (!event.submitter) return;
    event.preventDefault();
    const given = new FormData(vote, event.submitter);
    const words = vote.querySelector("p");
    try {
      await send("/votes", {
        query: given.get("query"),
        one: given.get("one"),
        other: given.get("other"),
        better: given.get("better") || null,
      });
    } catch (error) {
      words.textContent = `Not kept: ${error.message}`;
      say(words.textContent);
      return;
    }
    for (const button of vote.querySelectorAll("button")) {
      button.disabled = true;
      button.setAttribute("aria-pressed", String(button === event.submitter));
    }
    words.textContent = "Thank you. Your vote is kept.";
    say(words.textContent);
  });
}
