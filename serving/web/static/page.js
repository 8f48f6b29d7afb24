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

export function post(path, body, signal) {
  const headers = { "Content-Type": "application/json", "X-API-Key": key() };
  return fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal });
}
