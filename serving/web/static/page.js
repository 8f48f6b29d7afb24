// What the pages share: making elements, and asking the server in the session of this browser.

export function element(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

export function post(path, body, signal) {
  const headers = { "Content-Type": "application/json", "X-LLMOps-Page": "1" };
  return fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal });
}
