// The photo on the stage: its label map, its history, the tool in hand, and what is sent at the end of each stroke.

import { get } from "./api.js";
import { cut, History, paste } from "./history.js";
import { encodeLabels, fillRuns } from "./labels.js";
import { FIRST_SIDE, Photos } from "./photos.js";
import { boundsOf, differing, union } from "./raster.js";
import { cursor, scribbleLine, TOOLS } from "./tools.js";

const REACH = 9;

export class Editor {
  photos = new Photos();
  record = null;
  map = null;
  strokes = [];
  history = new History();
  tool = "brush";
  size = 24;
  classIndex = 0;
  classes = [];
  onchange = () => {};
  onnoclass = () => {};
  #stroke = null;
  #pointer = null;
  #opening = 0;

  constructor(stage, writer) {
    Object.assign(this, { stage, writer });
    stage.sketch = (context, pixel) => this.#sketch(context, pixel);
  }

  get label() { return this.classes[this.classIndex]?.number ?? 0; }
  get reach() { return (REACH * this.stage.ratio) / this.stage.view.scale; }

  colourOf(side) { return side === "inside" ? `rgb(${this.stage.colour(this.label).join(" ")})` : "#fff"; }

  /** Opens a photo. The place and zoom stay where the person had zoomed in, when the sizes agree. */
  async open(record) {
    const turn = ++this.#opening;
    const [full, bitmap, map] = await Promise.all([this.photos.details(record), this.photos.picture(record), this.photos.mask(record)]);
    if (turn !== this.#opening) return false;
    const sameSize = this.map?.width === map.width && this.map?.height === map.height;
    const again = this.record?.id === record.id;
    Object.assign(this, { record: full, map, strokes: full.strokes ?? [] });
    if (!again) this.history = new History();
    this.#drop();
    this.writer.seen({ id: record.id, version: map.version });
    Object.assign(this.stage, { bitmap, map });
    if (this.stage.refit !== false || !sameSize) this.stage.fit();
    this.stage.redraw();
    this.sharpen();
    this.onchange();
    return true;
  }

  /** Shows the server's newest mask of the photo at hand; a stroke that is being drawn comes first. */
  async refresh(record) {
    if (this.#stroke || this.writer.pending || record.id !== this.record?.id || record.version <= this.record.version) return;
    const newest = await this.photos.fetchRuns(record);
    if (this.#stroke || this.writer.pending || record.id !== this.record?.id) return;
    this.#take(record, newest);
  }

  #take(record, { version, runs }) {
    fillRuns(runs, this.map.before);
    this.map.labels.set(this.map.before);
    this.record = { ...this.record, ...record };
    this.strokes = record.strokes ?? this.strokes;
    this.writer.seen({ id: record.id, version });
    this.stage.draw("mask", "stroke");
    this.onchange();
  }

  adopt(record) {
    if (record.id !== this.record?.id) return;
    this.record = { ...this.record, ...record };
    this.onchange();
  }

  close() {
    this.#opening++;
    Object.assign(this, { record: null, map: null, strokes: [], history: new History() });
    Object.assign(this.stage, { bitmap: null, map: null });
    this.stage.redraw();
    this.onchange();
  }

  /** Fetches all the photo's pixels once the zoom asks for more than the first picture holds. */
  async sharpen() {
    const { record, stage } = this;
    if (!record || !stage.bitmap || Math.max(record.width, record.height) * record.scale_max <= FIRST_SIDE) return;
    if (stage.bitmap.width > FIRST_SIDE || stage.bitmap.height > FIRST_SIDE || stage.view.scale * record.width <= stage.bitmap.width) return;
    const bitmap = await this.photos.sharp(record).catch(() => null);
    if (bitmap && this.record?.id === record.id) stage.bitmap = bitmap;
    stage.draw("photo");
  }

  // --- the hand: what the pointers and the tools call ---

  down(point, erase) {
    if (!this.map) return;
    if (!this.#stroke) {
      const tool = TOOLS[this.tool];
      const label = erase || tool.erases ? 0 : this.label;
      if (!label && !erase && !tool.erases) return this.onnoclass();
      this.#stroke = new tool.make(this, label, this.tool);
    }
    this.#stroke.down(point);
    this.stage.draw("stroke");
  }

  move(points) {
    this.#stroke?.move(points);
    this.stage.draw("stroke");
  }

  up() {
    const stroke = this.#stroke;
    stroke?.up();
    if (!stroke?.lasting) this.#drop();
    this.stage.draw("stroke");
  }

  hover(point) {
    this.#pointer = point;
    this.#stroke?.hover?.(point);
    this.stage.draw("stroke");
  }

  /** Ends a polygon; false where there is none to end. */
  finish() {
    if (!this.#stroke?.close) return false;
    this.#stroke.close();
    return true;
  }

  /** Takes back the stroke that is being drawn; false where there is none. */
  cancel() {
    if (!this.#stroke) return false;
    this.map.labels.set(this.map.before);
    this.#drop();
    this.stage.draw("mask", "stroke");
    return true;
  }

  #drop() { this.#stroke = null; }

  touch(box) { this.stage.touch(box); }

  /** A tool is done: `box` is the rectangle that it may have changed. */
  painted(box) {
    this.#drop();
    if (!box) return;
    const pixels = cut(this.map.before, this.map.width, box);
    const now = cut(this.map.labels, this.map.width, box);
    if (now.every((label, i) => label === pixels[i])) return;
    this.history.push({ box, pixels });
    this.#save(box);
  }

  /** The class at hand is nowhere in this photo. */
  clearClass() {
    const { map, label } = this;
    const box = map && label ? boundsOf(map, label) : null;
    if (!box) return;
    this.cancel();
    for (let y = box.y0; y < box.y1; y++) {
      for (let at = y * map.width + box.x0; at < y * map.width + box.x1; at++) if (map.labels[at] === label) map.labels[at] = 0;
    }
    this.painted(box);
  }

  async scribbled(scribble) {
    const step = { scribble: { ...scribble, class_id: this.classes[this.classIndex].id } };
    const { map } = this;
    const before = map.before.slice();
    this.#drop();
    this.history.push(step);
    const newest = await this.#putScribbles([step.scribble]);
    if (newest?.state !== "corrected" || this.map !== map) return;
    // On a mask drawn by hand the server paints a scribble, so its undo is one of pixels.
    const box = differing(before, map.labels, map.width) ?? { x0: 0, y0: 0, x1: 1, y1: 1 };
    Object.assign(step, { box, pixels: cut(before, map.width, box) });
  }

  undo() { return this.cancel() || this.#redone(this.history.undo(this.map ?? {}), false); }
  redo() { return this.#redone(this.history.redo(this.map ?? {}), true); }

  #redone(step, again) {
    if (!step) return false;
    if (step.box) {
      this.#save(step.box);
    } else if (again) {
      this.#putScribbles([step.scribble]);
    } else {
      this.clearStrokes(this.strokes.slice(0, -1));
    }
    return true;
  }

  // --- what goes to the server ---

  /** What is drawn in the box is so from now on: it is shown, and sent. */
  #save(box) {
    const { record, map } = this;
    paste(map.before, map.width, box, cut(map.labels, map.width, box));
    map.unsaved = union(map.unsaved, box);
    this.stage.draw("mask", "stroke");
    this.onchange();
    return this.writer.add(record, (send) => sendPiece(send, map), (send) => sendWhole(send, map));
  }

  #putScribbles(scribbles) {
    const { record } = this;
    this.strokes = [...this.strokes, ...scribbles];
    this.onchange();
    return this.#answer(record, (send) => postAll(send, scribbles));
  }

  /** Takes the scribbles back, but for those to keep; the photo is predicted anew. */
  clearStrokes(kept = []) {
    const { record } = this;
    if (!record) return null;
    this.strokes = kept;
    this.onchange();
    return this.#answer(record, async (send) => (await send("DELETE", "/strokes", { stated: "query" }), kept.length ? postAll(send, kept) : get(`/photos/${encodeURIComponent(record.id)}`)));
  }

  async #answer(record, task) {
    const newest = await this.writer.add(record, task);
    if (!newest || this.record?.id !== newest.id || this.writer.pending) return newest;
    this.#take({ ...newest, strokes: this.strokes }, await this.photos.fetchRuns(newest));
    return newest;
  }

  /** Sets the state of the photo at hand as it was seen: where the guess has changed meanwhile, the seen mask is written first. */
  setState(state) {
    const { record, map } = this;
    const settle = state === "accepted" ? (send) => sendWhole(send, map) : null;
    return this.writer.add(record, (send) => send("POST", "/state", { stated: "json", json: { state } }), settle);
  }

  bounds() { return this.map && (boundsOf(this.map, this.label) ?? boundsOf(this.map)); }

  #sketch(context, pixel) {
    for (const stroke of this.stage.hidden ? [] : this.strokes) {
      const own = this.classes.find(({ id }) => id === stroke.class_id);
      // Thin, for what it did to the mask is to be seen.
      scribbleLine(context, { ...stroke, radius: Math.min(stroke.radius, 1.5 * pixel) }, stroke.side === "inside" ? `rgb(${this.stage.colour(own?.number).join(" ")} / .9)` : "rgb(255 255 255 / .9)");
    }
    this.#stroke?.sketch?.(context, pixel);
    if (this.#pointer) cursor(context, pixel, this.#pointer, TOOLS[this.tool].sized ? this.size : 0);
  }
}

/** Sends all of the mask that is not sent yet, as one rectangle; null where an earlier turn did. */
async function sendPiece(send, map) {
  const box = map.unsaved;
  if (!box) return null;
  map.unsaved = null;
  try {
    const body = await encodeLabels(cut(map.before, map.width, box), box.x1 - box.x0, box.y1 - box.y0);
    return await send("PATCH", "/mask", { stated: "query", query: { left: box.x0, top: box.y0 }, body, type: "image/png" });
  } catch (error) {
    map.unsaved = union(map.unsaved, box);
    throw error;
  }
}

async function sendWhole(send, map) {
  return send("PUT", "/mask", { stated: "query", body: await encodeLabels(map.before, map.width, map.height), type: "image/png" });
}

/** Sends scribbles in their order, those of one class that follow each other together. */
async function postAll(send, scribbles) {
  let answer = null;
  for (const { class_id, ...stroke } of scribbles) {
    answer = await send("POST", "/strokes", { stated: "json", json: { class_id, strokes: [stroke] } });
  }
  return answer;
}
