"use strict";
// Small SVG charts without a library: stacked bars and lines over the same buckets of time, with a tip on hover.

const SVG = "http://www.w3.org/2000/svg";
const MOST_WIDTH = 560, HEIGHT = 190, LEFT = 46, RIGHT = 4, TOP = 8, BOTTOM = 22;

function svg(tag, attributes, text) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

function niceTop(value) {
  if (!(value > 0)) return 1;
  const magnitude = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 2.5, 5, 10].map((m) => m * magnitude).find((top) => top >= value);
}

function clock(time, step) {
  const date = new Date(time);
  const hour = date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hour12: false });
  if (step >= 86400) return date.toLocaleDateString([], { month: "short", day: "numeric" });
  return step >= 7200 ? date.toLocaleDateString([], { weekday: "short", day: "numeric" }) : hour;
}

/* Draw into the figure `box`. parts: [{key, label, tone}]; kind: "bars" stacks them, "lines" draws each, with `near`
   on a scale around its values; `nothing` is said where there are none. */
function drawChart(box, series, step, { parts, kind, format, near, nothing }) {
  box.querySelectorAll("svg, .empty").forEach((old) => old.remove());
  const values = series.flatMap((b) => parts.map((p) => b[p.key])).filter((v) => v !== null && v !== undefined);
  box.querySelector(".legend").replaceChildren(...parts.flatMap((p) => [swatch(p.tone), document.createTextNode(p.label)]));
  if (nothing && !values.some((v) => v > 0)) {
    const line = document.createElement("p");
    line.className = "empty";
    line.textContent = nothing;
    box.append(line);
    return;
  }
  const width = Math.min(MOST_WIDTH, box.clientWidth - 36);  // never smaller than drawn, or the words could not be read
  const plotW = width - LEFT - RIGHT, plotH = HEIGHT - TOP - BOTTOM, slot = plotW / series.length;
  const total = (b) => parts.reduce((sum, p) => sum + (b[p.key] || 0), 0);
  const peak = Math.max(0, ...series.map((b) => (kind === "bars" ? total(b) : Math.max(...parts.map((p) => b[p.key] || 0)))));
  const lowest = near ? Math.min(...values) : 0, room = near ? (peak - lowest || Math.abs(peak) || 1) * 0.15 : 0;
  const low = lowest - room, top = near ? peak + room : niceTop(peak);
  const y = (value) => TOP + plotH * (1 - (value - low) / (top - low));
  const chart = svg("svg", { class: "chart", viewBox: `0 0 ${width} ${HEIGHT}`, role: "img" });
  chart.append(svg("title", {}, `${parts.map((p) => p.label).join(", ")} over time; highest ${format(peak)}`));
  for (const share of [0, 0.5, 1]) {
    const value = low + (top - low) * share;
    chart.append(svg("line", { class: "gridline", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }));
    if (values.length) chart.append(svg("text", { x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, format(value)));
  }
  const every = Math.ceil(series.length / (width > 400 ? 6 : 4));
  series.forEach((bucket, n) => {
    if (n % every === 0) chart.append(svg("text", { x: LEFT + slot * n, y: HEIGHT - 4 }, clock(bucket.time, step)));
  });
  if (kind === "bars") bars(chart, series, parts, slot, y);
  else lines(chart, series, parts, slot, y);
  hover(chart, series, step, parts, slot, format);
  box.append(chart);
}

function bars(chart, series, parts, slot, y) {
  const width = Math.max(1.5, slot * 0.72);
  series.forEach((bucket, n) => {
    let sum = 0;
    for (const { key, tone } of parts) {
      const value = bucket[key] || 0;
      if (!value) continue;
      const height = y(sum) - y(sum + value);
      chart.append(svg("rect", { class: `fill-${tone}`, x: LEFT + slot * n + (slot - width) / 2, y: y(sum + value), width, height, rx: 1 }));
      sum += value;
    }
  });
}

function lines(chart, series, parts, slot, y) {
  for (const { key, tone } of parts) {
    let path = "", alone = [];
    series.forEach((bucket, n) => {
      if (bucket[key] === null) return;
      const here = [LEFT + slot * (n + 0.5), y(bucket[key])].map((v) => v.toFixed(1));
      const linked = n > 0 && series[n - 1][key] !== null;
      path += `${linked ? "L" : "M"}${here.join(" ")}`;
      if (!linked && (n + 1 === series.length || series[n + 1][key] === null)) alone.push(here);
    });
    chart.append(svg("path", { class: `line-${tone}`, d: path }));
    for (const [cx, cy] of alone) chart.append(svg("circle", { class: `fill-${tone}`, cx, cy, r: 2.5 }));
  }
}

function swatch(tone) {
  const mark = document.createElement("i");
  mark.className = `fill-${tone}`;
  return mark;
}

function hover(chart, series, step, parts, slot, format) {
  const tip = document.getElementById("tip");
  const cursor = svg("rect", { class: "cursor", y: TOP, width: slot, height: HEIGHT - TOP - BOTTOM, visibility: "hidden" });
  chart.append(cursor);
  chart.addEventListener("pointermove", (event) => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(chart.getScreenCTM().inverse());
    const n = Math.floor((at.x - LEFT) / slot);
    const inside = n >= 0 && n < series.length;
    cursor.setAttribute("visibility", inside ? "visible" : "hidden");
    tip.hidden = !inside;
    if (!inside) return;
    cursor.setAttribute("x", LEFT + slot * n);
    const heading = document.createElement("b");
    heading.textContent = new Date(series[n].time).toLocaleString([], step >= 86400
      ? { month: "short", day: "numeric", timeZone: "UTC" } : { weekday: "short", hour: "2-digit", minute: "2-digit", hour12: false });
    tip.replaceChildren(heading, ...parts.map(({ key, label, tone }) => {
      const row = document.createElement("div");
      row.append(swatch(tone), `${label}: ${series[n][key] === null || series[n][key] === undefined ? "–" : format(series[n][key])}`);
      return row;
    }));
    const left = Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 8);
    tip.style.left = `${left}px`;
    tip.style.top = `${event.clientY + 14}px`;
  });
  chart.addEventListener("pointerleave", () => { tip.hidden = true; cursor.setAttribute("visibility", "hidden"); });
}
