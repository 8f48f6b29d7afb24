// The passages that an answer rests on, as footnotes that open.

import { element } from "./page.js";

/* Where a passage stands; an address can be followed. */
function describePlace(source) {
  const line = element("p", "hint");
  if (/^https?:\/\//.test(source.location)) {
    const link = element("a", "link", source.location);
    Object.assign(link, { href: source.location, target: "_blank", rel: "noopener" });
    line.append(link);
  } else line.append(source.location);
  line.append(...[source.position, source.source, source.licence].filter(Boolean).map((words) => ` · ${words}`));
  return line;
}

/** The list of them; without any, a line that says why. */
export function footnotes(sources, fromDocuments) {
  if (fromDocuments === false) return element("p", "facts hint", "The model answered without the documents.");
  if (!sources.length) return element("p", "facts hint", "Nothing in the documents answers this; the model was not asked.");
  const list = element("ol", "sources");
  list.setAttribute("aria-label", "Sources");
  for (const source of sources) {
    const item = element("li"), note = element("details");
    note.append(element("summary", "", source.title), describePlace(source), element("p", "snippet", source.snippet));
    item.append(note);
    list.append(item);
  }
  return list;
}
