// What the server says by itself: a photo, the project or the model's progress has changed.

import { address } from "./api.js";

/** `on[name](content)` for each event of that name; `on.again()` once the server is back after it was away. */
export function listenToServer({ again, ...on }) {
  const source = new EventSource(address("/events"));
  for (const [name, action] of Object.entries(on)) source.addEventListener(name, (event) => action(JSON.parse(event.data)));
  let lost = false;
  source.addEventListener("error", () => (lost = true));
  source.addEventListener("open", () => {
    if (lost) again();
    lost = false;
  });
}
