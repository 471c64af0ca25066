// The keys, in one table: what the list of keys shows is what works.

const row = (action, keys, shown = keys) => ({ action, keys, shown });

export const KEYS = [
  row("accept", ["Enter"]), row("reject", ["x"], ["X"]), row("repeat", ["."]), row("nextOpen", ["n"], ["N"]),
  row("next", ["ArrowRight", "ArrowDown"], ["→"]), row("previous", ["ArrowLeft", "ArrowUp"], ["←"]),
  row("reopen", ["w"], ["W"]),
  row("brush", ["b"], ["B"]), row("eraser", ["e"], ["E"]), row("lasso", ["l"], ["L"]), row("polygon", ["p"], ["P"]),
  row("box", ["r"], ["R"]), row("fill", ["f"], ["F"]), row("inside", ["i"], ["I"]), row("outside", ["o"], ["O"]),
  row("smaller", ["["], ["["]), row("larger", ["]"], ["]"]),
  row("undo", ["ctrl+z", "u"], ["U", "Ctrl Z"]), row("redo", ["ctrl+shift+z", "ctrl+y", "shift+u"], ["⇧ U", "Ctrl Y"]), row("cancel", ["Escape"], ["Esc"]),
  row("notHere", ["d"], ["D"]), row("clearStrokes", ["Backspace"], ["⌫"]),
  row("class", [], ["1 … 9", "0"]), row("newClass", ["c"], ["C"]),
  row("zoomIn", ["+", "="], ["+"]), row("zoomOut", ["-"], ["−"]), row("fit", ["a"], ["A"]), row("zoomObject", ["z"], ["Z"]),
  row("pan", [], ["Space"]), row("moveLeft", ["shift+ArrowLeft"], ["⇧ ←"]), row("moveRight", ["shift+ArrowRight"], ["⇧ →"]),
  row("moveUp", ["shift+ArrowUp"], ["⇧ ↑"]), row("moveDown", ["shift+ArrowDown"], ["⇧ ↓"]),
  row("hide", [], ["H"]), row("fainter", [","], [","]), row("stronger", [";", "shift+,"], [";"]),
  row("erase", [], ["Alt"]), row("search", ["/"], ["/"]), row("export", ["s"], ["S"]), row("keys", ["?"], ["?"]),
];

const ACTIONS = new Map(KEYS.flatMap(({ action, keys }) => keys.map((key) => [key, action])));

/** The name of a key press in the table: its modifiers, then the key. Shift counts for letters and named keys alone. */
function nameOf(event) {
  const letter = /^[a-z]$/i.test(event.key);
  const shift = event.shiftKey && (letter || event.key.length > 1);
  return `${event.ctrlKey || event.metaKey ? "ctrl+" : ""}${shift ? "shift+" : ""}${letter ? event.key.toLowerCase() : event.key}`;
}

const TEXT = "input[type=text], input[type=search], textarea, select";

/** True where the key belongs to what has the focus: one types there, or it is a button's own Enter and Space. The open photo's
    button has nothing to do, so that Enter in the list opens a photo, and then accepts it. */
function taken(event) {
  const { target, key } = event;
  if (!(target instanceof Element)) return false;
  if (target.matches(TEXT) || document.querySelector("dialog[open]")) return true;
  if (target.matches("input[type=range]")) return key.startsWith("Arrow");
  return target.matches("button:not([aria-current]), a, input") && (key === "Enter" || key === " ");
}

/** `act(action)` for each key of the table, `digit(key)` for the classes, `hold(name, down)` for Space and H. */
export function listenToKeys({ act, digit, hold }) {
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && event.target instanceof Element && event.target.matches(TEXT)) event.target.blur();
    if (taken(event)) return;
    const name = nameOf(event);
    if (name === " " || name === "h") hold(name === " " ? "pan" : "hide", true);
    else if (/^[0-9]$/.test(name) && !event.altKey) digit(name);
    else if (ACTIONS.has(name) && !event.altKey) act(ACTIONS.get(name));
    else return;
    event.preventDefault();
  });
  document.addEventListener("keyup", (event) => {
    if (event.key === " ") hold("pan", false);
    if (event.key.toLowerCase() === "h") hold("hide", false);
  });
  window.addEventListener("blur", () => ["pan", "hide"].forEach((name) => hold(name, false)));
  // A click leaves the focus on its button, where Enter would press it again; the keys of the page come first.
  document.addEventListener("click", (event) => {
    const button = event.target instanceof Element && event.target.closest("button");
    if (button && event.detail > 0 && !button.closest("dialog")) button.blur();
  });
}
