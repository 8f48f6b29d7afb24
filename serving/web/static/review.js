// The review of what users have said.

import { element, post } from "./page.js";

const $ = (id) => document.getElementById(id);
const EMPTY = { waiting: "Nothing waits. What enough people say in the same words trains without a review.", decided: "Nothing has been decided yet." };
let shown = "waiting";
let found = { open: [], decided: [], counts: {}, agreeing: 2 };

function text(name, value, className = "") {
  const row = element("div", `quote ${className}`);
  row.append(element("h3", "", name), element("p", "", value));
  return row;
}

function formatTime(time) {
  const moment = new Date(time);
  return Number.isNaN(moment.getTime()) ? time : moment.toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
}

function badges(entry) {
  const line = element("p", "facts");
  const people = entry.agreeing === 1 ? "1 person" : `${entry.agreeing} people`;
  line.append(element("span", `badge ${entry.agreeing >= found.agreeing ? "good" : ""}`, people));
  for (const { role, prefix } of entry.people.slice(0, 4)) line.append(element("span", "badge", `${role || "unknown"} ${prefix}`));
  if (entry.people.length > 4) line.append(element("span", "badge", `+ ${entry.people.length - 4}`));
  if (entry.kind === "answer") line.append(element("span", "badge", "answer found good"));
  if (entry.version) line.append(element("span", "badge", entry.version));
  if (entry.conversation) line.append(element("span", "badge", `conversation ${entry.conversation}`));
  line.append(element("span", "hint", formatTime(entry.time)));
  return line;
}

async function decide(path, body, card) {
  for (const button of card.querySelectorAll("button")) button.disabled = true;
  try {
    const response = await post(path, body);
    const answer = await response.json();
    showNotice(response.ok ? "" : answer.detail);
  } catch {
    showNotice("The server does not answer.");
  }
  await load();
}

const getPath = (entry) => `/admin/review/${encodeURIComponent(entry.id)}`;

function button(label, className, action) {
  const made = element("button", className, label);
  made.type = "button";
  made.addEventListener("click", action);
  return made;
}

function editor(entry, card) {
  const form = element("form", "correction");
  const area = element("textarea");
  const why = element("input");
  area.id = `text-${entry.id}`;
  area.maxLength = 8000;
  area.value = entry.edited || entry.correction;
  why.id = `why-${entry.id}`;
  why.maxLength = 500;
  const label = element("label", "", "The answer to train on");
  label.htmlFor = area.id;
  const reason = element("label", "", "Why (kept in the audit)");
  reason.htmlFor = why.id;
  const row = element("div", "inline end");
  row.append(button("Cancel", "", () => { form.hidden = true; }), element("button", "primary", "Accept as edited"));
  form.append(label, area, reason, why, row);
  form.hidden = true;
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (area.value.trim()) decide(getPath(entry), { decision: "edit", text: area.value, why: why.value }, card);
  });
  return form;
}

function article(entry) {
  const card = element("article", "card entry");
  const head = element("header", "inline");
  head.append(element("h2", "", entry.question));
  card.append(head, badges(entry));
  if (entry.context) card.append(text("Context", entry.context));
  const texts = element("div", "pair");
  if (entry.kind === "correction") texts.append(text("The model answered", entry.answer || "not told", "rejected"));
  texts.append(text(entry.edited ? "Accepted as edited" : entry.kind === "answer" ? "Answer" : "Correction", entry.edited || entry.correction, "chosen"));
  card.append(texts);
  if (entry.comment) card.append(text("Comment", entry.comment));
  const decided = entry.state === "accepted" || entry.state === "refused";
  const by = entry.by && entry.by !== "policy" ? `${entry.state} by ${entry.by}` : decided ? `${entry.state} by the policy` : "waits";
  card.append(element("p", "hint", [by, entry.why].filter(Boolean).join(": ")));
  const edit = editor(entry, card);
  const row = element("div", "inline end");
  if (entry.state === "waiting" && entry.people.length === 1) {
    const key = entry.people[0].prefix;
    row.append(button(`Refuse all of ${key}`, "", () => confirm(`Refuse all that waits of ${key}?`) && decide("/admin/review", { key }, card)));
  }
  if (entry.state !== "refused") row.append(button("Refuse", "", () => decide(getPath(entry), { decision: "refuse" }, card)));
  row.append(button("Edit", "", () => { edit.hidden = !edit.hidden; edit.querySelector("textarea").focus(); }));
  if (entry.state !== "accepted") row.append(button("Accept", "primary", () => decide(getPath(entry), { decision: "accept" }, card)));
  card.append(row, edit);
  return card;
}

function showNotice(words) {
  $("note").textContent = words;
  $("note").hidden = !words;
}

function render() {
  const entries = shown === "decided" ? found.decided : found.open.filter((entry) => entry.state === shown);
  $("entries").replaceChildren(...entries.map(article));
  if (!entries.length) $("entries").append(element("p", "card empty", EMPTY[shown]));
  const names = { waiting: "waiting", accepted: "accepted", refused: "refused", useless: "of no use" };
  $("counts").textContent = Object.entries(names).map(([state, name]) => `${found.counts[state] || 0} ${name}`).join(" · ");
  for (const other of document.querySelectorAll("[data-show]")) other.setAttribute("aria-pressed", String(other.dataset.show === shown));
}

async function load() {
  try {
    const response = await fetch("/admin/review/data");
    if (response.status === 401) { location.reload(); return; }
    if (!response.ok) { showNotice((await response.json()).detail); return; }
    found = await response.json();
    render();
  } catch {
    showNotice("The server does not answer.");
  }
}

for (const other of document.querySelectorAll("[data-show]")) {
  other.addEventListener("click", () => { shown = other.dataset.show; render(); });
}
load();
