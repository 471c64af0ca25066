// The drawing tools. Each gets points in image pixels and, at the end of a stroke, hands over what it did.

import { brushLine, fillBox, fillPolygon, fillRegion, snap, union } from "./raster.js";

/** Paints into the map as it goes: what one sees is what one gets. */
class Brush {
  constructor(hand, label) {
    Object.assign(this, { hand, label, box: null });
  }
  down(point) {
    this.last = point;
    this.#line(point);
  }
  move(points) { for (const point of points) this.#line(point); }
  #line(point) {
    const box = brushLine(this.hand.map, this.last, point, this.hand.size, this.label);
    this.last = point;
    this.box = union(this.box, box);
    if (box) this.hand.touch(box);
  }
  up() { this.hand.painted(this.box); }
}

class Outline {
  constructor(hand, label) {
    Object.assign(this, { hand, label, points: [] });
  }
  down(point) { this.points = [point]; }
  move(points) { this.points.push(...points); }
  up() { this.hand.painted(fillPolygon(this.hand.map, this.points, this.label)); }
  sketch(context, pixel) { trace(context, this.points, pixel, true); }
}

/** Clicks set corners; a double click, Enter or a click on the first corner closes it. */
class Polygon extends Outline {
  lasting = true;
  down(point) {
    const [first] = this.points;
    if (this.points.length > 2 && near(first, point, this.hand.reach)) return this.close();
    if (this.points.length && near(this.points.at(-1), point, this.hand.reach / 3)) return this.close();
    this.points.push(point);
  }
  move() {}
  up() {}
  hover(point) { this.ahead = point; }
  close() {
    if (this.points.length < 3) return;
    super.up();
  }
  sketch(context, pixel) {
    trace(context, this.ahead ? [...this.points, this.ahead] : this.points, pixel, true);
    context.fillStyle = "#fff";
    for (const [x, y] of this.points) context.fillRect(x - 3 * pixel, y - 3 * pixel, 6 * pixel, 6 * pixel);
  }
}

class Box {
  constructor(hand, label) {
    Object.assign(this, { hand, label });
  }
  down(point) { this.from = this.to = point; }
  move(points) { this.to = points.at(-1); }
  up() { this.hand.painted(fillBox(this.hand.map, this.from, this.to, this.label)); }
  sketch(context, pixel) {
    const [[x0, y0], [x1, y1]] = [this.from, this.to];
    trace(context, [[x0, y0], [x1, y0], [x1, y1], [x0, y1]], pixel, true);
  }
}

class Fill {
  constructor(hand, label) {
    Object.assign(this, { hand, label });
  }
  down(point) { this.at = point; }
  move() {}
  up() { this.hand.painted(fillRegion(this.hand.map, this.at, this.label)); }
}

/** A scribble binds where it is drawn, and the rest of the photo is predicted anew from it. */
class Scribble {
  constructor(hand, label, side) {
    Object.assign(this, { hand, side, points: [] });
  }
  down(point) { this.points = [point]; }
  move(points) { this.points.push(...points.filter((point) => !near(point, this.points.at(-1), 0.5))); }
  up() { this.hand.scribbled({ side: this.side, radius: this.hand.size / 2, points: this.points.map(rounded) }); }
  sketch(context) { scribbleLine(context, this, this.hand.colourOf(this.side)); }
}

class Inside extends Scribble {
  constructor(hand, label) { super(hand, label, label ? "inside" : "outside"); }
}

class Outside extends Scribble {
  constructor(hand, label) { super(hand, label, "outside"); }
}

export const TOOLS = {
  brush: { make: Brush, sized: true },
  eraser: { make: Brush, sized: true, erases: true },
  lasso: { make: Outline },
  polygon: { make: Polygon },
  box: { make: Box },
  fill: { make: Fill },
  inside: { make: Inside, sized: true },
  outside: { make: Outside, sized: true },
};

const rounded = (point) => point.map((value) => Math.round(value * 100) / 100);
const near = (a, b, reach) => Math.hypot(a[0] - b[0], a[1] - b[1]) <= reach;

function path(context, points, closed) {
  context.beginPath();
  points.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
  if (closed) context.closePath();
  if (points.length === 1) context.lineTo(points[0][0] + 0.001, points[0][1]);
}

/** A line that is seen on any photo: white upon black. */
function trace(context, points, pixel, closed) {
  path(context, points, closed);
  for (const [colour, width] of [["#000", 3], ["#fff", 1.4]]) {
    context.strokeStyle = colour;
    context.lineWidth = width * pixel;
    context.stroke();
  }
}

export function scribbleLine(context, { radius, points, hand }, colour) {
  path(context, points, false);
  Object.assign(context, { lineCap: "round", lineJoin: "round", lineWidth: 2 * (radius ?? hand.size / 2), strokeStyle: colour });
  context.stroke();
}

/** The cursor: the brush's true print, or a cross for the tools that have no size. */
export function cursor(context, pixel, point, size) {
  if (size) {
    const [x, y] = snap(point, size);
    context.beginPath();
    if (size === 1) context.rect(x - 0.5, y - 0.5, 1, 1);
    else context.arc(x, y, Math.max(size / 2, pixel), 0, 2 * Math.PI);
    for (const [colour, width] of [["#000", 2.6], ["#fff", 1.2]]) {
      context.strokeStyle = colour;
      context.lineWidth = width * pixel;
      context.stroke();
    }
  }
  if (!size || size / pixel < 12) {
    const [x, y] = point;
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      trace(context, [[x + 5 * dx * pixel, y + 5 * dy * pixel], [x + 11 * dx * pixel, y + 11 * dy * pixel]], pixel, false);
    }
  }
}
