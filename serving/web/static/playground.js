"use strict";
const $ = (id) => document.getElementById(id);
const KEY = "llmops_key";

$("key").value = sessionStorage.getItem(KEY) || "";
$("key").addEventListener("input", () => sessionStorage.setItem(KEY, $("key").value.trim()));
$("keyform").addEventListener("submit", (event) => event.preventDefault());
$("forget").addEventListener("click", () => { sessionStorage.removeItem(KEY); $("key").value = ""; $("key").focus(); });
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); $("ask").requestSubmit(); }
});

function element(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function card(question) {
  const box = element("article", "card answer");
  box.append(element("p", "question", question));
  const text = element("p", "text waiting", "…");
  const facts = element("p", "facts");
  box.append(text, facts);
  $("answers").prepend(box);
  return { text, facts };
}

async function ask(event) {
  event.preventDefault();
  const question = $("prompt").value;
  const { text, facts } = card(question);
  $("send").disabled = true;
  const begun = performance.now();
  try {
    const response = await fetch("/generate", {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-API-Key": $("key").value.trim() },
      body: JSON.stringify({ prompt: question, context: $("context").value, max_new_tokens: Number($("tokens").value) }),
    });
    const answer = await response.json();
    const seconds = ((performance.now() - begun) / 1000).toFixed(2);
    text.classList.remove("waiting");
    if (response.ok) {
      text.textContent = answer.response || "(an empty answer)";
      const cut = answer.finish_reason === "length" ? ["cut at the longest answer"] : [];
      const usage = `${answer.usage.input_tokens} → ${answer.usage.output_tokens} tokens`;
      for (const fact of [answer.model_version, `${seconds} s`, usage, ...cut]) facts.append(element("span", "badge", fact));
      facts.append(element("code", "", answer.id));
    } else {
      text.classList.add("bad");
      text.textContent = answer.detail;
      facts.append(element("span", "badge", String(response.status)), element("code", "", answer.id || ""));
    }
  } catch (error) {
    text.className = "text bad";
    text.textContent = `The server does not answer (${error.message}).`;
  } finally {
    $("send").disabled = false;
  }
}

async function ready() {
  const badge = $("ready");
  try {
    const state = await (await fetch("/readyz")).json();
    badge.textContent = state.status === "ready" ? `${state.model_version} is ready` : state.detail;
    badge.className = state.status === "ready" ? "badge good" : "badge warn";
  } catch {
    badge.textContent = "The server does not answer";
    badge.className = "badge bad";
  }
}

$("ask").addEventListener("submit", ask);
ready();
setInterval(ready, 5000);
