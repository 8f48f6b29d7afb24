// What the pages share: making elements, and asking the server in the session of this browser.

export function element(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

let conversation = "";

/** Begin a conversation: the requests and ratings from now on have an id of their own in common. */
export function begin() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));  // randomUUID needs HTTPS
  conversation = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function post(path, body, signal) {
  const headers = { "Content-Type": "application/json", "X-LLMOps-Page": "1" };
  if (conversation) headers["X-Session-ID"] = conversation;
  return fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal });
}
