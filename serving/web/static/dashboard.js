"use strict";
// Fetches /dashboard/data and draws it; again every five seconds while the page is looked at.

const $ = (id) => document.getElementById(id);
const NOTHING = "No requests in this span.";
const FEWEST_DAYS = 7;
const OUTCOMES = { found: "answered from passages", refused: "refused: no passage is good enough", none: "answered without passages", down: "answered, the index was down" };
let span = "1h";

const count = (v) => (v >= 1e6 ? `${+(v / 1e6).toFixed(1)}M` : v >= 1e4 ? `${+(v / 1e3).toFixed(1)}k` : `${+v.toFixed(1)}`);
const duration = (ms) => (ms >= 1000 ? `${+(ms / 1000).toFixed(ms >= 10000 ? 0 : 1)} s` : `${+ms.toFixed(ms >= 10 ? 0 : 1)} ms`);
const percent = (v) => `${+(100 * v).toFixed(2)}%`;
const formatSigned = (v) => `${v < 0 ? "−" : "+"}${Math.abs(v).toFixed(3)}`;
const formatOrDash = (format, v) => (v === null || v === undefined ? "–" : format(v));
const formatTime = (time) => new Date(time).toLocaleString([], { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hour12: false });

function element(tag, className, content) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (content !== undefined) node.append(content);
  return node;
}

function badge(text) {
  const tone = { success: "good", promoted: "good", rejected: "bad", failure: "bad", inconclusive: "warn", champion: "good", canary: "warn", regression: "bad", no_regression: "good", insufficient_data: "warn", error: "bad", running: "warn",
    raised: "bad", resolved: "good", silenced: "", critical: "bad", warning: "warn", drift: "bad", differs: "warn", "as before": "good",
    failing: "bad", refusing: "warn", recovered: "good", settled: "good" }[text] || "";
  return element("span", `badge ${tone}`, text);
}

function stageLink(stage) {
  const link = element("a", "link", stage);
  link.href = `/dashboard/stages/${encodeURIComponent(stage)}`;
  return link;
}

function usageLink(text, query) {
  const link = element("a", "link", text);
  link.href = `/usage?${query}`;
  return link;
}

function tile(name, value, note, tone = "") {
  const box = element("div", "tile");
  box.append(element("div", "name", name), element("div", `value ${tone}`, value), element("div", "note", note));
  return box;
}

/* columns: [[heading, class, row => text or node]] */
function table(box, columns, rows, nothing) {
  box.querySelectorAll(".scroll, .empty").forEach((old) => old.remove());
  if (!rows.length) { box.append(element("p", "empty", nothing)); return; }
  const grid = element("table");
  const head = grid.createTHead().insertRow();
  for (const [heading, className] of columns) head.append(element("th", className, heading));
  const body = grid.createTBody();
  for (const row of rows) {
    const line = body.insertRow();
    for (const [, className, value] of columns) line.append(element("td", className, value(row)));
  }
  const scroll = element("div", "scroll");
  scroll.append(grid);
  box.append(scroll);
}

function share(value, whole) {
  const bar = svg("svg", { class: "share", viewBox: "0 0 100 8", preserveAspectRatio: "none", role: "img" });
  bar.append(svg("rect", { class: "track", width: 100, height: 8 }), svg("rect", { class: "fill-accent", width: 100 * value / whole, height: 8 }));
  return bar;
}

/* The decision's interval around its difference, on a scale of -reach to reach with zero in the middle. */
function interval(gate, reach) {
  const x = (v) => 50 + (48 * v) / reach;
  const plot = svg("svg", { class: "interval", viewBox: "0 0 100 14", preserveAspectRatio: "none", role: "img" });
  const tone = gate.outcome === "promoted" ? "good" : gate.outcome === "rejected" ? "bad" : "warn";
  plot.append(
    svg("title", {}, `${formatSigned(gate.low)} to ${formatSigned(gate.high)}`),
    svg("rect", { class: "zero", x: 49.6, width: 0.8, height: 14 }),
    svg("rect", { class: `fill-${tone} faint`, x: x(gate.low), y: 5, width: x(gate.high) - x(gate.low), height: 4 }),
    svg("rect", { class: `fill-${tone}`, x: x(gate.difference) - 1.2, y: 2, width: 2.4, height: 10 }),
  );
  return plot;
}

/* Which attempt on the frozen test it was, and what it has left for others. */
function attempt(gate) {
  if (gate.attempt === null) return "";
  const left = `left ${gate.left.toPrecision(2)}`;
  return gate.attempt ? `${gate.attempt}, level ${gate.level.toPrecision(2)}, ${left}` : `none spent, ${left}`;
}

function addReasons(node, gate) {
  node.title = (gate.reasons || []).join("\n");
  return node;
}

/* The trial that goes on, as a row of the table of those that are decided. */
function trial(canary) {
  if (!canary) return [];
  const counted = (f) => `${count(f.requests)} requests, ${count(f.failed)} failed, p50 ${formatOrDash(duration, f.latency_ms.p50)}`;
  const why = `canary: ${counted(canary.canary)} · champion: ${counted(canary.champion)}`;
  return [{ time: canary.started, version: canary.version, share: canary.share, outcome: "running", why }];
}

/* A small chart for each metric and set, with a line for each version and its last slope. */
function drawDecay(box, panels) {
  box.querySelectorAll(":scope > .empty").forEach((old) => old.remove());
  if (!panels.length) box.append(element("p", "empty", "The quality of no version has been measured yet."));
  const tones = ["accent", "good", "warn", "bad", "second"];
  const format = (v) => `${+v.toPrecision(3)}`;
  const grid = box.querySelector(".grid");
  grid.replaceChildren(...panels.map((panel) => {
    const figure = element("figure", "");
    const title = element("figcaption", "", `${panel.metric}, ${panel.set} `);
    title.append(element("span", "legend"));
    figure.append(title);
    return figure;
  }));
  panels.forEach((panel, n) => {
    const days = panel.values.filter((day) => Object.keys(panel.versions).some((version) => typeof day[version] === "number"));
    if (days.length < FEWEST_DAYS) {  // some dots in an empty chart tell less
      const last = days.at(-1) || {};
      const values = Object.keys(panel.versions).filter((version) => typeof last[version] === "number").map((version) => `${version} ${format(last[version])}`);
      grid.children[n].append(element("p", "empty", `${values.join(", ")}; measured on ${days.length} of the ${FEWEST_DAYS} days from which on a line is drawn.`));
      return;
    }
    const parts = Object.entries(panel.versions).map(([version, s], i) => ({ key: version, tone: tones[i % tones.length],
      label: s.slope === null ? version : `${version} ${formatSigned(30 * s.slope)} a month` }));
    drawChart(grid.children[n], panel.values, 86400, { kind: "lines", near: true, format, parts });
  });
}

function draw(data) {
  const { totals, series, step_s: step, serving } = data;
  const latency = totals.latency_ms, goals = data.objectives;
  const open = (rule) => (data.alerts.some((a) => a.rule === rule && a.state === "raised") ? "bad" : "");
  $("tiles").replaceChildren(
    tile("Requests", count(totals.requests), `${count(totals.refused)} refused`),
    tile("Error rate", formatOrDash(percent, totals.error_rate), `${count(totals.failed)} failed · objective ${percent(goals.error_rate)}`, open("error_rate")),
    tile("Latency p50", formatOrDash(duration, latency.p50), `p99 ${formatOrDash(duration, latency.p99)}`),
    tile("Latency p95", formatOrDash(duration, latency.p95), `objective ${duration(goals.latency_p95_ms)}`, open("latency_p95")),
    tile("Tokens", count(totals.input_tokens + totals.output_tokens), `${count(totals.input_tokens)} in, ${count(totals.output_tokens)} out`),
    tile("Champion", serving.version || "none", serving.version ? "is answering" : "not ready"),
  );
  drawChart($("requests"), series, step, { kind: "bars", format: count, nothing: NOTHING, parts: [
    { key: "answered", label: "answered", tone: "good" }, { key: "refused", label: "refused (4xx)", tone: "warn" }, { key: "failed", label: "failed (5xx)", tone: "bad" }] });
  drawChart($("latency"), series, step, { kind: "lines", format: duration, nothing: NOTHING, parts: [
    { key: "p50", label: "p50", tone: "second" }, { key: "p95", label: "p95", tone: "accent" }] });
  drawChart($("tokens"), series, step, { kind: "bars", format: count, nothing: NOTHING, parts: [
    { key: "input_tokens", label: "in", tone: "second" }, { key: "output_tokens", label: "out", tone: "accent" }] });
  for (const [name, nothing] of [["first", "No answer of this span tells when its first token came."], ["queue", "No answer of this span tells how long it waited."]])
    drawChart($(name), series, step, { kind: "lines", format: duration, nothing, parts: [
      { key: `${name}_p50`, label: "p50", tone: "second" }, { key: `${name}_p95`, label: "p95", tone: "accent" }] });
  const errors = Object.entries(totals.errors);
  table($("errors"), [
    ["Status and kind", "", ([kind]) => kind], ["Requests", "num", ([, n]) => count(n)],
    ["Of all", "num", ([, n]) => percent(n / totals.requests)], ["", "", ([, n]) => share(n, errors[0][1])]],
    errors, "No request was refused or failed in this span.");
  const outcomes = Object.entries(data.retrieval.outcomes), passages = Object.entries(data.retrieval.passages);
  table($("outcomes"), [
    ["Outcome", "", ([outcome]) => OUTCOMES[outcome] || outcome], ["Requests", "num", ([, n]) => count(n)], ["", "", ([, n]) => share(n, outcomes[0][1])]],
    outcomes, "None of them was looked up in documents.");
  table($("passages"), [
    ["Passage", "", ([id]) => id], ["Answers", "num", ([, n]) => count(n)], ["", "", ([, n]) => share(n, passages[0][1])]],
    passages, "None of them rests on a passage.");
  const versions = Object.entries(data.versions).reverse();
  const most = Math.max(1, ...versions.map(([, v]) => v.requests));
  const sides = { [serving.version]: "champion", [serving.canary && serving.canary.version]: "canary" };
  table($("versions"), [
    ["Version", "", ([name]) => name], ["", "", ([name]) => (sides[name] ? badge(sides[name]) : "")],
    ["Requests", "num", ([, v]) => count(v.requests)], ["Share", "num", ([, v]) => percent(v.share)],
    ["", "", ([, v]) => share(v.requests, most)], ["Errors", "num", ([, v]) => `${count(v.failed)} (${formatOrDash(percent, v.error_rate)})`],
    ["p50", "num", ([, v]) => formatOrDash(duration, v.latency_ms.p50)], ["p95", "num", ([, v]) => formatOrDash(duration, v.latency_ms.p95)],
    ["First token p95", "num", ([, v]) => formatOrDash(duration, v.first_token_ms.p95)], ["Queue p95", "num", ([, v]) => formatOrDash(duration, v.queue_ms.p95)],
    ["Tokens/s", "num", ([, v]) => formatOrDash(count, v.tokens_per_s)],
    ["Good", "num", ([, v]) => count(v.up)], ["Bad", "num", ([, v]) => count(v.down)]], versions, "No model has answered in this span.");
  $("hub").textContent = data.hub.map((h) => `On the Hub, ${h.repo}: ${h.main || "no model"}`
    + (h.main === (serving.version || "") ? ", the champion." : "; it has not followed the champion, llmops models push brings it along.")).join("");
  const { month, keys } = data.usage, tokens = (k) => k.input_tokens + k.output_tokens;
  $("usage").querySelector(".hint").replaceChildren(`${month}, UTC. By day and model: `, usageLink("JSON", `month=${month}`), ", ", usageLink("CSV", `month=${month}&format=csv`));
  table($("usage"), [
    ["Key", "", (k) => k.key], ["Owner", "", (k) => k.owner], ["Requests", "num", (k) => count(k.requests)],
    ["Tokens in", "num", (k) => count(k.input_tokens)], ["Tokens out", "num", (k) => count(k.output_tokens)],
    ["Budget", "num", (k) => (k.tokens_per_month ? count(k.tokens_per_month) : "–")],
    ["Used", "num", (k) => (k.tokens_per_month ? percent(tokens(k) / k.tokens_per_month) : "")],
    ["", "", (k) => (k.tokens_per_month ? share(Math.min(tokens(k), k.tokens_per_month), k.tokens_per_month) : "")]],
    keys, "No key has used anything this month.");
  table($("canaries"), [
    ["Time", "time", (c) => formatTime(c.time)], ["Version", "", (c) => c.version], ["Share", "num", (c) => formatOrDash(percent, c.share)],
    ["Outcome", "", (c) => badge(c.outcome)], ["Why", "dim", (c) => c.why]],
    [...trial(serving.canary), ...data.canaries], "No canary yet: an admin starts one with llmops models canary.");
  table($("changes"), [
    ["Time", "time", (c) => formatTime(c.time)], ["Champion", "", (c) => c.aliases.champion || "none"], ["Canary", "", (c) => c.aliases.canary || ""],
    ["By", "", (c) => c.by], ["Why", "dim", (c) => (c.override ? `${c.why} · override: ${c.override}` : c.why)]],
    serving.changes, "Nothing has been published yet.");
  const reach = Math.max(0.01, ...data.gates.flatMap((g) => [g.low, g.high]).map((v) => Math.abs(v || 0)));
  table($("gates"), [
    ["Time", "time", (g) => formatTime(g.time)], ["Version", "", (g) => g.version], ["Outcome", "", (g) => addReasons(badge(g.outcome), g)],
    ["Against", "", (g) => g.opponent], ["Metric", "time", (g) => g.metric || ""],
    ["Difference", "num", (g) => (g.difference === null ? "" : formatSigned(g.difference))],
    ["Interval", "", (g) => (g.difference === null ? "" : interval(g, reach))],
    ["Would have found", "num", (g) => formatOrDash(formatSigned, g.power)], ["Attempt", "time", attempt]],
    data.gates, "No decision yet: the pipeline's stage release makes them.");
  table($("alerts"), [
    ["Raised", "time", (a) => formatTime(a.time)], ["State", "", (a) => (a.state ? badge(a.state) : "")],
    ["Severity", "", (a) => (a.severity ? badge(a.severity) : "")], ["Rule", "", (a) => a.rule], ["About", "", (a) => a.subject || ""],
    ["What", "dim", (a) => a.message], ["Resolved", "time", (a) => formatOrDash(formatTime, a.resolved)]], data.alerts, "No alerts.");
  drawDecay($("decay"), data.decay);
  table($("drift"), [
    ["What", "", (d) => `${d.side || ""} ${d.feature || ""}`], ["", "", (d) => badge(d.state)],
    ["Windows in a row", "num", (d) => formatOrDash(count, d.windows)], ["Test", "", (d) => d.test || ""],
    ["Effect", "num", (d) => formatOrDash((v) => v.toFixed(3), d.effect)], ["q", "num", (d) => formatOrDash((v) => v.toPrecision(2), d.q_value)],
    ["Requests", "num", (d) => formatOrDash(count, d.requests)], ["Topics", "dim", (d) => [d.topics || []].flat().join(", ")]],
    data.drift, "Nothing has been compared with the reference yet.");
  table($("sinks"), [
    ["Time", "time", (s) => formatTime(s.time)], ["Sink", "", (s) => s.name || ""], ["State", "", (s) => badge(s.state)],
    ["Waiting", "num", (s) => formatOrDash(count, s.waiting)], ["Refused for good", "num", (s) => formatOrDash(count, s.rejected)],
    ["Why", "dim", (s) => s.why]], data.sinks, "No sink has failed.");
  table($("stages"), [
    ["Stage", "", (s) => stageLink(s.stage)], ["Finished", "time", (s) => formatTime(s.time)], ["Took", "num", (s) => duration(s.seconds * 1000)],
    ["Outcome", "", (s) => badge(s.outcome)], ["Figure", "dim line", (s) => s.headline]], data.stages, "No stage has run yet.");
  $("updated").textContent = `Updated ${new Date(data.now).toLocaleTimeString([], { hour12: false })}`;
  const text = serving.detail || `${serving.version} is answering`;
  $("state").textContent = text;
  $("state").className = `badge ${serving.detail ? "warn" : "good"}`;
}

async function refresh() {
  const asked = span;
  try {
    const response = await fetch(`/dashboard/data?span=${asked}`);
    if (response.status === 401 || response.status === 403) { location.reload(); return; }
    const data = await response.json();
    if (!response.ok) throw new Error(data.detail);
    if (asked === span) draw(data);
  } catch (error) {
    $("state").textContent = `No data: ${error.message}`;
    $("state").className = "badge bad";
  }
}

document.querySelectorAll("[data-span]").forEach((button) => button.addEventListener("click", () => {
  span = button.dataset.span;
  document.querySelectorAll("[data-span]").forEach((b) => b.setAttribute("aria-pressed", String(b === button)));
  refresh();
}));
refresh();
setInterval(() => { if (!document.hidden) refresh(); }, 5000);
