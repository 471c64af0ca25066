// Three canvases, one upon the other: the photo, its mask, and what is being drawn with the cursor.
// Each is as large as the stage in device pixels. The mask is looked up from the label map for the visible pixels alone,
// so there is no scaled copy of it anywhere and a photo of any size costs the same.

import { byId } from "./dom.js";
import { View } from "./view.js";

const NEAREST_FROM = 2;

export class Stage {
  view = new View();
  bitmap = null;
  map = null;
  opacity = 0.5;
  hidden = false;
  sketch = () => {};
  onview = () => {};
  #colours = [[0, 0, 0]];
  #due = new Set();

  constructor() {
    this.root = byId("stage");
    this.layers = Object.fromEntries(["photo", "mask", "stroke"].map((name) => [name, byId(`${name}-canvas`).getContext("2d")]));
    new ResizeObserver(() => this.#resize()).observe(this.root);
    this.#resize();
  }

  get ratio() { return window.devicePixelRatio || 1; }

  #resize() {
    const width = Math.max(1, Math.round(this.root.clientWidth * this.ratio));
    const height = Math.max(1, Math.round(this.root.clientHeight * this.ratio));
    const { view } = this;
    const moved = [(width - view.width) / 2, (height - view.height) / 2];
    for (const { canvas } of Object.values(this.layers)) Object.assign(canvas, { width, height });
    view.resize(width, height);
    if (this.map && !this.refit) view.pan(...moved);
    if (this.map && this.refit) this.fit();
    this.redraw();
  }

  /** classes: their numbers and colours, "#rrggbb". */
  setColours(classes) {
    this.#colours = [];
    for (const { number, colour } of classes) this.#colours[number] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
    this.draw("mask", "stroke");
  }

  colour(label) { return this.#colours[label] ?? [255, 255, 255]; }

  /** Shows the whole photo, and keeps showing all of it when the window changes. */
  fit() {
    if (!this.map) return;
    this.refit = true;
    this.view.fit({ x0: 0, y0: 0, x1: this.map.width, y1: this.map.height });
    this.redraw();
  }

  fitBox(box) {
    this.refit = false;
    this.view.fit(box, 0.12);
    this.redraw();
  }

  zoom(factor, point) {
    this.refit = false;
    this.view.zoom(factor, point);
    this.redraw();
  }

  pan(dx, dy) {
    this.refit = false;
    this.view.pan(dx, dy);
    this.redraw();
  }

  redraw() {
    this.draw("photo", "mask", "stroke");
    this.onview();
  }

  /** Draws the named layers at the next frame, once however often asked. */
  draw(...layers) {
    if (!this.#due.size) requestAnimationFrame(() => this.#frame());
    for (const layer of layers) this.#due.add(layer);
  }

  #frame() {
    const due = [...this.#due];
    this.#due.clear();
    if (due.includes("photo")) this.#drawPhoto();
    if (due.includes("mask")) this.#drawMask();
    if (due.includes("stroke")) this.#drawStroke();
  }

  #clear(context) {
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.view.width, this.view.height);
  }

  #drawPhoto() {
    const context = this.layers.photo;
    this.#clear(context);
    if (!this.bitmap || !this.map) return;
    const { x, y, scale } = this.view;
    const whole = this.bitmap.width >= this.map.width;
    context.imageSmoothingEnabled = !(whole && scale >= NEAREST_FROM);
    context.imageSmoothingQuality = "high";
    context.drawImage(this.bitmap, x, y, this.map.width * scale, this.map.height * scale);
  }

  #drawMask() {
    this.#clear(this.layers.mask);
    if (!this.map || this.hidden) return;
    const box = this.view.visible(this.map.width, this.map.height);
    if (box) this.#paintMask(box);
  }

  /** Shows at once what changed in a rectangle of the image. */
  touch({ x0, y0, x1, y1 }) {
    const seen = this.view.visible(this.map.width, this.map.height);
    if (!seen || this.hidden) return;
    const [left, top] = this.view.toStage([x0, y0]);
    const [right, bottom] = this.view.toStage([x1, y1]);
    const box = { x0: Math.max(seen.x0, Math.floor(left)), y0: Math.max(seen.y0, Math.floor(top)), x1: Math.min(seen.x1, Math.ceil(right)), y1: Math.min(seen.y1, Math.ceil(bottom)) };
    if (box.x0 < box.x1 && box.y0 < box.y1) this.#paintMask(box);
  }

  #paintMask({ x0, y0, x1, y1 }) {
    const { labels, width, height } = this.map;
    const { x, y, scale } = this.view;
    const [across, down] = [x1 - x0, y1 - y0];
    const image = new ImageData(across, down);
    const out = new Uint32Array(image.data.buffer);
    const shades = this.#shades();
    const columns = Int32Array.from({ length: across }, (_, i) => within((x0 + i + 0.5 - x) / scale, width));
    for (let j = 0; j < down; j++) {
      const row = within((y0 + j + 0.5 - y) / scale, height) * width;
      for (let i = 0, at = j * across; i < across; i++, at++) out[at] = shades[labels[row + columns[i]]];
    }
    this.layers.mask.putImageData(image, x0, y0);
  }

  #shades() {
    const shades = new Uint32Array(256);
    const alpha = Math.round(255 * this.opacity);
    for (let label = 1; label < 256; label++) {
      if (!this.#colours[label]) continue; // of a class that was removed
      const [red, green, blue] = this.#colours[label];
      shades[label] = ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0;
    }
    return shades;
  }

  #drawStroke() {
    const context = this.layers.stroke;
    this.#clear(context);
    if (!this.map) return;
    const { x, y, scale } = this.view;
    context.setTransform(scale, 0, 0, scale, x, y);
    this.sketch(context, this.ratio / scale);
  }
}

const within = (value, size) => Math.min(size - 1, Math.max(0, Math.floor(value)));
