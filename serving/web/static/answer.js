// An answer as it is read: code between fences and backticks stands out, all else stays the text that it is.

import { element } from "./page.js";

/* Text in which `code` may stand. */
function renderProse(text) {
  return text.split(/`([^`\n]+)`/).map((part, n) => (n % 2 ? element("code", "", part) : part)).filter((part) => part !== "");
}

/** Put `text` into `box`; of a fence that is still open, all that follows is code. */
export function show(box, text) {
  const nodes = [];
  let lines = [], code = false;
  const end = () => {
    const block = lines.join("\n");
    if (code) nodes.push(element("pre", "", block));
    else nodes.push(...renderProse(nodes.length ? block.replace(/^\n/, "") : block));
    lines = [];
  };
  for (const line of text.split("\n")) {
    if (!/^\s*```/.test(line)) { lines.push(line); continue; }
    if (code || lines.length) end();
    code = !code;
  }
  if (lines.length) end();
  box.replaceChildren(...nodes);
}
