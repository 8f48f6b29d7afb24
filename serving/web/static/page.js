// What the pages share: making elements, and asking the server with the session of the browser.

export function element(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

export function post(path, body, signal) {
  return fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal });
}

/** Says that the session is over and where to begin another; this page stays as it is meanwhile. */
export function over() {
  const words = element("p", "text bad", "The session is over. ");
  const link = element("a", "link", "Sign in again");
  link.href = "/signin";
  link.target = "_blank";
  words.append(link, ", and come back to this tab.");
  return words;
}
