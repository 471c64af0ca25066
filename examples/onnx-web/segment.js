// Photos in, masks out, in the browser: encoder.onnx and decide.onnx of `shotseg export`, and classes of Segmenter.save.
import * as ort from "onnxruntime-web";

const SURE = 4; // log odds of the last bytes of a level
const EVEN = 127.5; // even odds lie between two bytes
const ONE = 2 ** 22; // Pillow weighs pixels in whole numbers

ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = new URL("./node_modules/onnxruntime-web/dist/", import.meta.url).href;

/** The graphs and export.json of a folder that `shotseg export` wrote. */
export async function openExport(folder) {
  const fetched = async (name) => new Uint8Array(await (await fetch(`${folder}/${name}`)).arrayBuffer());
  const about = await (await fetch(`${folder}/export.json`)).json();
  const [encoder, decide] = await Promise.all(
    ["encoder", "decide"].map(async (name) => ort.InferenceSession.create(await fetched(`${name}.onnx`))),
  );
  return { about, encoder, decide };
}

/** A support file (safetensors): the names of its classes, and every tensor of all classes as one batch, padded with zeros. */
export async function openSupport(url) {
  const buffer = await (await fetch(url)).arrayBuffer();
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const { classes } = JSON.parse(header.__metadata__.shotseg);
  const read = ({ shape, data_offsets: [start, stop] }) => ({
    shape,
    values: new Float32Array(buffer.slice(8 + length + start, 8 + length + stop)),
  });
  const names = Object.keys(header).filter((key) => key.startsWith("0/")).map((key) => key.slice(2));
  const tensors = {};
  for (const name of names) tensors[name] = stacked(classes.map((_, i) => read(header[`${i}/${name}`])));
  return { classes, tensors };
}

function stacked(parts) {
  const sides = parts[0].shape.slice(1).map((_, axis) => Math.max(...parts.map((part) => part.shape[axis + 1])));
  const size = sides.reduce((a, b) => a * b, 1);
  const all = new Float32Array(parts.length * size);
  parts.forEach(({ shape, values }, i) => {
    const row = shape.at(-1);
    for (let from = 0; from < values.length; from += row) {
      let rest = from / row, to = 0, step = sides.at(-1);
      for (let axis = sides.length - 2; axis >= 0; axis--) {
        to += (rest % shape[axis + 1]) * step;
        rest = Math.floor(rest / shape[axis + 1]);
        step *= sides[axis];
      }
      all.set(values.subarray(from, from + row), i * size + to);
    }
  });
  return new ort.Tensor("float32", all, [parts.length, ...sides]);
}

/** Label map {labels, width, height, present} of an ImageData: 0 = background, i + 1 = class i. threshold: of presence, -1: none. */
export async function segment({ about, encoder, decide }, { tensors }, photo, threshold = 0.5) {
  const longer = Math.max(photo.width, photo.height);
  const fitted = (side) => Math.max(1, roundEven((side * about.size) / longer / about.multiple)) * about.multiple;
  const [width, height] = [fitted(photo.width), fitted(photo.height)];
  const input = new Float32Array(3 * width * height);
  for (let channel = 0; channel < 3; channel++) {
    const plane = Uint8Array.from({ length: photo.width * photo.height }, (_, i) => photo.data[4 * i + channel]);
    const small = resized(plane, photo.width, photo.height, width, height);
    small.forEach((value, i) => (input[channel * width * height + i] = value / 255));
  }
  const image = new ort.Tensor("float32", input, [1, 3, height, width]);
  const features = await encoder.run({ photo: image });
  const given = { photo: image, threshold: new ort.Tensor("float32", [threshold], []), ...features, ...tensors };
  const known = Object.fromEntries(decide.inputNames.map((name) => [name, given[name]]));
  const { scores, present } = await decide.run(known);
  return { labels: labelled(scores, photo.width, photo.height), width: photo.width, height: photo.height, present: [...present.data] };
}

function labelled(scores, width, height) {
  const [, count, h, w] = scores.dims;
  const odds = (i, at) => scores.data[i * h * w + at] - scores.data[at];
  const labels = new Uint8Array(width * height);
  const highest = new Uint8Array(width * height).fill(Math.floor(EVEN));
  const excess = Float32Array.from({ length: h * w }, (_, at) => {
    let most = 0;
    for (let i = 1; i < count; i++) most = Math.max(most, odds(i, at) - SURE);
    return most;
  });
  const winners = Uint8Array.from({ length: h * w }, (_, at) => {
    let best = 0;
    for (let i = 1; i < count; i++) if (scores.data[i * h * w + at] > scores.data[best * h * w + at]) best = i;
    return best;
  });
  for (let i = 1; i < count; i++) {
    const mine = Array.from(winners.keys()).filter((at) => winners[at] === i);
    if (!mine.length) continue;
    const [top, bottom] = span(mine.map((at) => Math.floor(at / w)), h, height);
    const [left, right] = span(mine.map((at) => at % w), w, width);
    const level = Uint8Array.from({ length: h * w }, (_, at) => {
      const held = Math.min(SURE, Math.max(-SURE, odds(i, at) - excess[at]));
      return Math.ceil((held * EVEN) / SURE + EVEN - 0.5);
    });
    const box = { x: [(left * w) / width, (right * w) / width], y: [(top * h) / height, (bottom * h) / height] };
    resized(level, w, h, right - left, bottom - top, box).forEach((value, n) => {
      const at = (top + Math.floor(n / (right - left))) * width + left + (n % (right - left));
      if (value > highest[at]) [highest[at], labels[at]] = [value, i];
    });
  }
  return labels;
}

/** From and to which pixel of a photo's side the cells of a class reach. */
function span(cells, count, side) {
  const first = cells.reduce((a, b) => Math.min(a, b)), last = cells.reduce((a, b) => Math.max(a, b)), step = side / count;
  return [Math.max(0, Math.trunc((first - 1) * step)), Math.min(side, Math.ceil((last + 2) * step))];
}

/** Bytes of one channel at another size as Pillow's bilinear makes them: a smaller pixel is the mean of all it stands for.
 *  box: the part of the plane that is wanted, from and to in x and y. */
export function resized(plane, width, height, toWidth, toHeight, box = { x: [0, width], y: [0, height] }) {
  const across = new Uint8Array(toWidth * height);
  taps(width, toWidth, box.x).forEach(({ first, weights }, x) => {
    for (let y = 0; y < height; y++) {
      let sum = 0;
      weights.forEach((weight, i) => (sum += weight * plane[y * width + first + i]));
      across[y * toWidth + x] = Math.floor(sum / ONE + 0.5);
    }
  });
  const found = new Uint8Array(toWidth * toHeight);
  taps(height, toHeight, box.y).forEach(({ first, weights }, y) => {
    for (let x = 0; x < toWidth; x++) {
      let sum = 0;
      weights.forEach((weight, i) => (sum += weight * across[(first + i) * toWidth + x]));
      found[y * toWidth + x] = Math.floor(sum / ONE + 0.5);
    }
  });
  return found;
}

function taps(side, count, box) {
  const [start, end] = box.map(Math.fround); // as Pillow takes them
  const scale = (end - start) / count, reach = Math.max(1, scale);
  return Array.from({ length: count }, (_, i) => {
    const centre = start + (i + 0.5) * scale;
    const first = Math.max(0, Math.floor(centre - reach + 0.5));
    const stop = Math.min(side, Math.floor(centre + reach + 0.5));
    const raw = Array.from({ length: stop - first }, (_, j) => Math.max(0, 1 - Math.abs((first + j - centre + 0.5) / reach)));
    const total = raw.reduce((a, b) => a + b, 0);
    return { first, weights: raw.map((weight) => Math.round((weight / total) * ONE)) };
  });
}

function roundEven(value) { // as Python rounds a half
  const whole = Math.round(value);
  return value % 1 === 0.5 && whole % 2 ? whole - 1 : whole;
}
