"use strict";
// Fetches /drift/data and draws it: what differs first.

const $ = (id) => document.getElementById(id);
const percent = (v) => `${+(100 * v).toFixed(1)}%`;
const formatTime = (time) => new Date(time).toLocaleString([], { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hour12: false });
const formatSmall = (v) => (v === null ? "–" : v === 0 ? "0" : v < 0.001 ? v.toExponential(0) : v.toFixed(3));
const SHOWN = 12;  // bins of a histogram; the others are taken together

function element(tag, className, content) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (content !== undefined) node.append(content);
  return node;
}

/* columns: [[heading, class, row => text or node]] */
function table(box, columns, rows, nothing) {
  if (!rows.length) { box.append(element("p", "empty", nothing)); return; }
  const grid = element("table"), head = grid.createTHead().insertRow(), body = grid.createTBody();
  for (const [heading, className] of columns) head.append(element("th", className, heading));
  for (const row of rows) {
    const line = body.insertRow();
    for (const [, className, value] of columns) line.append(element("td", className, value(row)));
  }
  const scroll = element("div", "scroll");
  scroll.append(grid);
  box.append(scroll);
}

function describeVerdict(one, inARow) {
  if (one.windows >= inARow) return element("span", "badge bad", `drift, ${one.windows} windows`);
  return one.drifted ? element("span", "badge warn", "differs") : element("span", "badge good", "as before");
}

const TESTS = { ks: "Kolmogorov–Smirnov", chi_square: "chi-square", clusters: "chi-square of clusters" };
const nameFeature = (one) => `${one.feature.replace("_", " ")} of the ${one.side}`;

/* The two shares of one bin, one bar above the other. */
function pair(before, now, top) {
  const plot = svg("svg", { class: "pair", viewBox: "0 0 100 14", preserveAspectRatio: "none", "aria-hidden": "true" });
  plot.append(
    svg("rect", { class: "fill-second", width: Math.max(0.4, (100 * before) / top), height: 6 }),
    svg("rect", { class: "fill-accent", y: 8, width: Math.max(0.4, (100 * now) / top), height: 6 }));
  return plot;
}

function bins(shares) {
  const all = shares.bins.map((name, n) => ({ name, before: shares.reference[n], now: shares.window[n] }));
  if (all.length <= SHOWN) return all;
  const ranked = [...all].sort((a, b) => Math.abs(b.now - b.before) - Math.abs(a.now - a.before));
  const rest = ranked.slice(SHOWN - 1);
  const sum = (key) => rest.reduce((total, bin) => total + bin[key], 0);
  return [...ranked.slice(0, SHOWN - 1), { name: `${rest.length} others`, before: sum("before"), now: sum("now") }];
}

function histogram(one, inARow) {
  const box = element("figure", "card"), caption = element("figcaption", "", `${nameFeature(one)} `), legend = element("span", "legend");
  for (const [tone, label] of [["second", "reference"], ["accent", "window"]]) legend.append(element("i", `fill-${tone}`), label);
  caption.append(describeVerdict(one, inARow), legend);
  box.append(caption);
  const rows = bins(one.shares), top = Math.max(...rows.flatMap((bin) => [bin.before, bin.now])) || 1;
  table(box, [["", "bin", (b) => b.name], ["", "wide", (b) => pair(b.before, b.now, top)], ["", "num", (b) => `${percent(b.before)} → ${percent(b.now)}`]], rows, "");
  return box;
}

function describeMove(topic) {
  if (topic.before === 0) return element("span", "badge warn", "new");
  if (topic.now === 0) return element("span", "badge warn", "gone");
  return element("span", "badge", topic.now > topic.before ? "more" : "less");
}

function draw(data) {
  const { window: seen, comparisons, in_a_row: inARow } = data;
  if (!seen) {
    $("state").textContent = "no window judged yet";
    $("window").textContent = "The DAG llm_monitoring judges each window once it has ended; llmops drift does at once.";
  } else {
    const drifted = comparisons.filter((c) => c.windows >= inARow).length, differ = comparisons.filter((c) => c.drifted).length;
    $("state").textContent = drifted ? `drift in ${drifted} of ${comparisons.length}` : differ ? `${differ} of ${comparisons.length} differ, in fewer than ${inARow} windows in a row` : "as before";
    $("state").className = `badge ${drifted ? "bad" : differ ? "warn" : "good"}`;
    const reference = { training: "its training data", served: "what it was asked in its first days" }[seen.reference];
    $("window").textContent = `${seen.requests} requests to ${seen.version}, ${formatTime(seen.since)} to ${formatTime(seen.until)}, beside ${reference}`;
  }
  table($("comparisons"), [
    ["What", "", nameFeature], ["", "", (c) => describeVerdict(c, inARow)], ["Test", "time", (c) => TESTS[c.test] || c.test],
    ["Effect", "num", (c) => `PSI ${formatSmall(c.effect)}`],
    ["p", "num", (c) => formatSmall(c.p_value)], ["q", "num", (c) => formatSmall(c.q_value)]], comparisons, "Nothing was compared.");
  const top = Math.max(0, ...data.topics.flatMap((t) => [t.before, t.now]));
  table($("topics"), [
    ["Topic", "", (t) => t.name], ["Of the", "time", (t) => t.side], ["", "", describeMove], ["", "wide", (t) => pair(t.before, t.now, top)],
    ["Share", "num", (t) => `${percent(t.before)} → ${percent(t.now)}`]], data.topics, "No topic's share differs.");
  if (data.examples.length) {
    table($("unlike"), [["Prompt", "", (e) => e.text], ["Nearest topics", "dim", (e) => e.topics.join(", ")]], data.examples, "");
  } else {
    table($("unlike"), [["Nearest topic of the training data", "", (t) => t.name], ["Requests", "num", (t) => t.count]], data.nearest, "None is named.");
    if (data.nearest.length) $("unlike").append(element("p", "hint", "Prompts are not kept; monitoring.keep_text would show them here."));
  }
  $("features").replaceChildren(...comparisons.filter((c) => c.shares && c.shares.bins).map((c) => histogram(c, inARow)));
  table($("windows"), [
    ["Window", "time", (w) => `${formatTime(w.since)} to ${formatTime(w.until)}`], ["Version", "", (w) => w.version], ["Reference", "", (w) => w.reference],
    ["Compared", "num", (w) => w.compared], ["Differ", "num", (w) => w.differ], ["Drift", "num", (w) => w.drift]],
    [...data.windows].reverse(), "None yet.");
}

fetch("/drift/data").then(async (answer) => {
  if (!answer.ok) throw new Error((await answer.json()).error?.message || answer.statusText);
  draw(await answer.json());
}).catch((error) => { $("state").textContent = error.message; $("state").className = "badge bad"; });
