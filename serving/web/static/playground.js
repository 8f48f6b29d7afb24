// A chat over /v1/chat/completions; ratings and corrections of answers go to /feedback.

import { show } from "./answer.js";
import { events } from "./events.js";
import { feedback } from "./feedback.js";
import { begin, element, post } from "./page.js";
import { footnotes } from "./sources.js";

const $ = (id) => document.getElementById(id);
const MODEL = document.querySelector("main").dataset.model;
let turns = [];
let running = null;

function bubble(who, text) {
  const box = element("article", `bubble ${who}`);
  box.append(element("h2", "unseen", who === "user" ? "You" : MODEL), element("div", "text", text));
  $("log").append(box);
  return box;
}

const page = document.scrollingElement;
const atEnd = () => page.scrollHeight - page.scrollTop - page.clientHeight < 80;
const toEnd = () => { page.scrollTop = page.scrollHeight; };

/* Stay at the end of the conversation, unless somebody has scrolled up to read. */
function follow(change) {
  const stays = atEnd();
  change();
  if (stays) toEnd();
}

function setBusy(on) {
  $("stop").hidden = !on;
  $("send").hidden = on;
  $("clear").disabled = on || !turns.length;
  $("log").setAttribute("aria-busy", String(on));  // read out when it is complete, not word by word
}

function request(question) {
  const system = $("system").value.trim();
  const asked = [...turns, { role: "user", content: question }];
  return {
    model: MODEL,
    messages: system ? [{ role: "system", content: system }, ...asked] : asked,
    max_tokens: Number($("tokens").value),
    temperature: Number($("temperature").value),
    stream: true,
    stream_options: { include_usage: true },
  };
}

const CUT = { length: "cut at the longest answer", content_filter: "cut by the guard" };

async function read(response, text) {
  const found = { text: "", usage: null, version: "", cut: "", sources: null, fromDocuments: true, id: response.headers.get("X-Request-ID") };
  for await (const data of events(response)) {
    if (data === "[DONE]") break;
    const event = JSON.parse(data);
    if (event.error) throw new Error(event.error.message);
    const [choice] = event.choices;
    found.version = event.system_fingerprint;
    found.usage = event.usage || found.usage;
    found.sources = event.sources || found.sources;
    found.fromDocuments = event.from_documents ?? found.fromDocuments;
    if (!choice) continue;
    found.text += choice.delta.content || "";
    found.cut = CUT[choice.finish_reason] || "";
    follow(() => show(text, found.text));
  }
  return found;
}

function showFacts(box, found, seconds) {
  const line = element("p", "facts");
  const tokens = found.usage ? [`${found.usage.prompt_tokens} → ${found.usage.completion_tokens} tokens`] : [];
  for (const fact of [found.version, `${seconds} s`, ...tokens, ...(found.cut ? [found.cut] : [])]) {
    line.append(element("span", "badge", fact));
  }
  box.append(line);
}

async function ask(event) {
  event.preventDefault();
  const question = $("prompt").value.trim();
  if (!question || running) return;
  if ($("signin")) { $("api_key").focus(); return; }
  const body = request(question);
  follow(() => bubble("user", question));
  const box = bubble("model", "");
  const text = box.querySelector(".text");
  text.classList.add("waiting");
  $("prompt").value = "";
  grow();
  running = new AbortController();
  setBusy(true);
  toEnd();
  const begun = performance.now();
  try {
    const response = await post("/v1/chat/completions", body, running.signal);
    if (!response.ok) throw Object.assign(new Error((await response.json()).error.message), { status: response.status });
    const found = await read(response, text);
    text.classList.remove("waiting");
    if (!found.text) text.textContent = "(an empty answer)";
    turns.push({ role: "user", content: question }, { role: "assistant", content: found.text });
    follow(() => {
      if (found.sources) box.append(footnotes(found.sources, found.fromDocuments));
      showFacts(box, found, ((performance.now() - begun) / 1000).toFixed(1));
      box.append(feedback(found.id, question, found.text));
    });
  } catch (error) {
    showFailure(error, box, text, question);
  } finally {
    running = null;
    setBusy(false);
  }
}

function showFailure(error, box, text, question) {
  text.classList.remove("waiting");
  if (error.name === "AbortError") {
    box.append(element("p", "facts hint", "Stopped; the model does not remember this."));
  } else {
    const unreachable = error instanceof TypeError;
    follow(() => box.append(element("p", "text bad", unreachable ? "The server does not answer." : error.message)));
    if (error.status === 401) $("over").hidden = false;
  }
  if (!text.textContent) text.remove();
  if (!$("prompt").value) { $("prompt").value = question; grow(); }
}

function grow() {
  $("prompt").rows = Math.min(8, $("prompt").value.split("\n").length);
}

function clear() {
  begin();
  turns = [];
  $("log").replaceChildren();
  $("clear").disabled = true;
  $("prompt").focus();
}

async function showState() {
  const badge = $("ready");
  try {
    const state = await (await fetch("/readyz")).json();
    const good = state.status === "ready";
    badge.textContent = good ? `${state.model_version} is ready` : state.detail;
    badge.className = good ? "badge good" : "badge warn";
  } catch {
    badge.textContent = "The server does not answer";
    badge.className = "badge bad";
  }
}

$("ask").addEventListener("submit", ask);
$("stop").addEventListener("click", () => { running?.abort(); $("prompt").focus(); });
$("clear").addEventListener("click", clear);
$("prompt").addEventListener("input", grow);
document.querySelector("summary").addEventListener("click", () => {
  if (atEnd()) requestAnimationFrame(toEnd);  // the settings do not cover the last answer
});
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); $("ask").requestSubmit($("send")); }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && running) { running.abort(); $("prompt").focus(); }
});
begin();
if (!$("signin")) $("prompt").focus();
showState();
setInterval(() => { if (!document.hidden) showState(); }, 5000);
