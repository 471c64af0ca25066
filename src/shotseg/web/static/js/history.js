// Undo and redo, one step a stroke. A step keeps the pixels of its rectangle, not the whole mask.

export function cut(labels, width, { x0, y0, x1, y1 }) {
  const piece = new Uint8Array((x1 - x0) * (y1 - y0));
  for (let y = y0; y < y1; y++) piece.set(labels.subarray(y * width + x0, y * width + x1), (y - y0) * (x1 - x0));
  return piece;
}

/** Puts the pixels of a rectangle, as `cut` gives them, into a label map. */
export function paste(labels, width, { x0, y0, x1, y1 }, piece) {
  const across = x1 - x0;
  for (let y = y0; y < y1; y++) labels.set(piece.subarray((y - y0) * across, (y - y0 + 1) * across), y * width + x0);
}

export class History {
  #done = [];
  #undone = [];

  /** A step is {box, pixels}: what was in the box before the stroke. A scribble's step is {scribble} alone. */
  push(step) {
    this.#done.push(step);
    this.#undone = [];
  }

  get canUndo() { return this.#done.length > 0; }
  get canRedo() { return this.#undone.length > 0; }

  undo(map) { return this.#swap(this.#done, this.#undone, map); }
  redo(map) { return this.#swap(this.#undone, this.#done, map); }

  #swap(from, to, map) {
    const step = from.pop();
    if (!step) return null;
    to.push(step);
    if (step.box) {
      const now = cut(map.labels, map.width, step.box);
      paste(map.labels, map.width, step.box, step.pixels);
      step.pixels = now;
    }
    return step;
  }
}
