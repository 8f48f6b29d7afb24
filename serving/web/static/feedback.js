// Thumbs and a correction below an answer. What was asked and answered is only sent with a correction.

import { element, over, post } from "./page.js";

async function send(body, note) {
  try {
    const response = await post("/feedback", body);
    note.replaceChildren(response.ok ? "Thank you." : response.status === 401 ? over() : (await response.json()).detail);
    return response.ok;
  } catch {
    note.textContent = "The server does not answer.";
    return false;
  }
}

function icon() {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  path.setAttribute("d", "M3 11h4v9H3zM7 11l4-8c2 0 2.6 1.6 2.2 3.2L12.5 9H19a2 2 0 0 1 2 2.4l-1.4 7a2 2 0 0 1-2 1.6H7z");
  svg.append(path);
  return svg;
}

function thumb(rating, label) {
  const button = element("button", `thumb ${rating}`);
  button.append(icon());
  button.type = "button";
  button.dataset.rating = rating;
  button.setAttribute("aria-label", label);
  button.setAttribute("aria-pressed", "false");
  button.title = label;
  return button;
}

function correction(id, question, answer, note) {
  const form = element("form", "correction");
  form.hidden = true;
  const label = element("label", "", "What should the answer have been?");
  const text = element("textarea");
  text.id = `correction-${id}`;
  text.maxLength = 8000;
  text.value = answer;
  label.htmlFor = text.id;
  const row = element("div", "inline end");
  row.append(element("span", "hint", "Your question and this answer are sent with it."), element("button", "primary", "Send correction"));
  form.append(label, text, row);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const corrected = text.value.trim();
    if (!corrected || corrected === answer.trim()) { note.textContent = "Change the answer first."; text.focus(); return; }
    form.hidden = await send({ id, rating: "down", question, answer, correction: corrected }, note);
    if (form.hidden) document.getElementById("prompt").focus();
  });
  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); form.requestSubmit(); }
  });
  return form;
}

/** The row of buttons below the answer to the request `id`. */
export function feedback(id, question, answer) {
  const box = element("div", "feedback");
  const note = element("span", "hint");
  note.setAttribute("role", "status");
  const form = correction(id, question, answer, note);
  const buttons = [thumb("up", "Good answer"), thumb("down", "Bad answer")];
  for (const button of buttons) {
    button.addEventListener("click", async () => {
      const rating = button.dataset.rating;
      if (!(await send({ id, rating }, note))) return;
      for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
      form.hidden = rating === "up";
      if (rating === "down") {
        form.querySelector("textarea").focus();
        form.scrollIntoView({ block: "nearest" });
      }
    });
  }
  box.append(...buttons, note, form);
  return box;
}
