// What the parts of the playground share: making elements, and asking the server with the key of this tab.

const KEY = "llmops_key";

export const key = () => sessionStorage.getItem(KEY) || "";
export const keep = (value) => sessionStorage.setItem(KEY, value);
export const forget = () => sessionStorage.removeItem(KEY);

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
  const headers = { "Content-Type": "application/json", "X-API-Key": key() };
  if (conversation) headers["X-Session-ID"] = conversation;
  return fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal });
}
