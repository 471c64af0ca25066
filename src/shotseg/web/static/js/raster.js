// Draws into a label map (Uint8Array of image pixels). Every function returns the rectangle it touched,
// {x0, y0, x1, y1} with x1 and y1 outside it, or null when that is empty. Pixel (x, y) has its centre at (x + 0.5, y + 0.5).

export function union(a, b) {
  if (!a || !b) return a ?? b;
  return { x0: Math.min(a.x0, b.x0), y0: Math.min(a.y0, b.y0), x1: Math.max(a.x1, b.x1), y1: Math.max(a.y1, b.y1) };
}

function clipped(map, x0, y0, x1, y1) {
  const box = { x0: Math.max(0, Math.floor(x0)), y0: Math.max(0, Math.floor(y0)), x1: Math.min(map.width, Math.ceil(x1)), y1: Math.min(map.height, Math.ceil(y1)) };
  return box.x0 < box.x1 && box.y0 < box.y1 ? box : null;
}

/** A line of single pixels, one per step along its longer side, both ends painted. */
function thinLine(map, from, to, label) {
  let [x, y] = from.map(Math.floor);
  const [x1, y1] = to.map(Math.floor);
  const box = clipped(map, Math.min(x, x1), Math.min(y, y1), Math.max(x, x1) + 1, Math.max(y, y1) + 1);
  const [dx, dy] = [Math.abs(x1 - x), -Math.abs(y1 - y)];
  const [sx, sy] = [x < x1 ? 1 : -1, y < y1 ? 1 : -1];
  for (let error = dx + dy; ; ) {
    if (x >= 0 && y >= 0 && x < map.width && y < map.height) map.labels[y * map.width + x] = label;
    if (x === x1 && y === y1) return box;
    const twice = 2 * error;
    if (twice >= dy) { error += dy; x += sx; }
    if (twice <= dx) { error += dx; y += sy; }
  }
}

/** The brush's centre sits on a pixel's centre for odd sizes and on a corner for even ones, so its print is symmetric. */
export function snap([x, y], size) {
  return size % 2 ? [Math.floor(x) + 0.5, Math.floor(y) + 0.5] : [Math.round(x), Math.round(y)];
}

/** One brush segment of `size` pixels across from point to point; without gaps however fast the pointer was. */
export function brushLine(map, from, to, size, label) {
  if (size === 1) return thinLine(map, from, to, label);
  const [ax, ay] = snap(from, size);
  const [bx, by] = snap(to, size);
  const radius = size / 2;
  const box = clipped(map, Math.min(ax, bx) - radius, Math.min(ay, by) - radius, Math.max(ax, bx) + radius, Math.max(ay, by) + radius);
  if (!box) return null;
  const [dx, dy] = [bx - ax, by - ay];
  const length2 = dx * dx + dy * dy;
  for (let y = box.y0; y < box.y1; y++) {
    const py = y + 0.5 - ay;
    for (let x = box.x0; x < box.x1; x++) {
      const px = x + 0.5 - ax;
      const along = length2 ? Math.min(1, Math.max(0, (px * dx + py * dy) / length2)) : 0;
      const [ex, ey] = [px - along * dx, py - along * dy];
      if (ex * ex + ey * ey <= radius * radius) map.labels[y * map.width + x] = label;
    }
  }
  return box;
}

/** The pixels whose centre is inside a closed outline (even-odd rule). */
export function fillPolygon(map, points, label) {
  const [xs, ys] = [points.map((point) => point[0]), points.map((point) => point[1])];
  const box = clipped(map, Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys));
  if (!box) return null;
  for (let y = box.y0; y < box.y1; y++) {
    const crossings = crossingsAt(points, y + 0.5);
    for (let i = 0; i + 1 < crossings.length; i += 2) {
      const start = Math.max(box.x0, Math.ceil(crossings[i] - 0.5));
      const end = Math.min(box.x1, Math.ceil(crossings[i + 1] - 0.5));
      if (start < end) map.labels.fill(label, y * map.width + start, y * map.width + end);
    }
  }
  return box;
}

function crossingsAt(points, height) {
  const found = [];
  points.forEach(([bx, by], i) => {
    const [ax, ay] = points.at(i - 1);
    if (ay <= height !== by <= height) found.push(ax + ((height - ay) / (by - ay)) * (bx - ax));
  });
  return found.sort((a, b) => a - b);
}

/** Every pixel that the box touches, corners included. */
export function fillBox(map, from, to, label) {
  const box = clipped(map, Math.min(from[0], to[0]), Math.min(from[1], to[1]), Math.max(from[0], to[0]), Math.max(from[1], to[1]));
  if (!box) return null;
  for (let y = box.y0; y < box.y1; y++) map.labels.fill(label, y * map.width + box.x0, y * map.width + box.x1);
  return box;
}

/** The region of one label around a point, joined over edges: fills a closed outline, or a hole. */
export function fillRegion(map, [px, py], label) {
  const { labels, width, height } = map;
  const [x0, y0] = [Math.floor(px), Math.floor(py)];
  if (x0 < 0 || y0 < 0 || x0 >= width || y0 >= height) return null;
  const old = labels[y0 * width + x0];
  if (old === label) return null;
  let box = null;
  const waiting = [y0 * width + x0];
  while (waiting.length) {
    const at = waiting.pop();
    if (labels[at] !== old) continue;
    const y = Math.floor(at / width);
    let [left, right] = [at, at + 1];
    while (left > y * width && labels[left - 1] === old) left--;
    while (right < (y + 1) * width && labels[right] === old) right++;
    labels.fill(label, left, right);
    if (y > 0) seeds(labels, left - width, right - width, old, waiting);
    if (y < height - 1) seeds(labels, left + width, right + width, old, waiting);
    box = union(box, { x0: left - y * width, y0: y, x1: right - y * width, y1: y + 1 });
  }
  return box;
}

function seeds(labels, start, end, old, waiting) {
  for (let at = start; at < end; at++) {
    if (labels[at] === old && (at === start || labels[at - 1] !== old)) waiting.push(at);
  }
}

/** The rectangle around all pixels in which two label maps of one width differ. */
export function differing(a, b, width) {
  let box = null;
  for (let at = 0, y = 0; at < a.length; at += width, y++) {
    let [first, last] = [0, width];
    while (first < width && a[at + first] === b[at + first]) first++;
    while (last > first && a[at + last - 1] === b[at + last - 1]) last--;
    if (first < last) box = union(box, { x0: first, y0: y, x1: last, y1: y + 1 });
  }
  return box;
}

/** The rectangle around all pixels of a label, or of any label when it is 0. */
export function boundsOf({ labels, width, height }, label = 0) {
  let box = null;
  for (let y = 0; y < height; y++) {
    let [first, last] = [-1, -1];
    for (let x = 0, at = y * width; x < width; x++, at++) {
      if (label ? labels[at] !== label : !labels[at]) continue;
      if (first < 0) first = x;
      last = x;
    }
    if (first >= 0) box = union(box, { x0: first, y0: y, x1: last + 1, y1: y + 1 });
  }
  return box;
}
