// Label maps as PNG, byte for byte: the browser's own decoder would give colours in place of class numbers.

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
const GREY = 0;
const PALETTE = 3;

async function through(stream, bytes) {
  return new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(stream)).arrayBuffer());
}

function readChunks(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const found = { data: [] };
  for (let at = 8; at + 8 <= bytes.length; ) {
    const length = view.getUint32(at);
    const name = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    if (name === "IHDR") {
      found.width = view.getUint32(at + 8);
      found.height = view.getUint32(at + 12);
      [found.depth, found.colour, , , found.interlaced] = bytes.subarray(at + 16, at + 21);
    }
    if (name === "IDAT") found.data.push(bytes.subarray(at + 8, at + 8 + length));
    at += 12 + length;
  }
  return found;
}

function paeth(left, up, corner) {
  const guess = left + up - corner;
  const [a, b, c] = [Math.abs(guess - left), Math.abs(guess - up), Math.abs(guess - corner)];
  if (a <= b && a <= c) return left;
  return b <= c ? up : corner;
}

/** Undoes one row's filter in place; `above` is the row before it, already undone. A byte is at least one pixel. */
function unfilter(kind, row, above) {
  if (kind === 2) for (let i = 0; i < row.length; i++) row[i] += above[i];
  if (kind === 0 || kind === 2) return;
  for (let i = 0; i < row.length; i++) {
    const left = i ? row[i - 1] : 0;
    if (kind === 1) row[i] += left;
    else if (kind === 3) row[i] += (left + above[i]) >> 1;
    else row[i] += paeth(left, above[i], i ? above[i - 1] : 0);
  }
}

function unpack(row, depth, out) {
  if (depth === 8) return out.set(row.subarray(0, out.length));
  const mask = (1 << depth) - 1;
  for (let x = 0; x < out.length; x++) {
    const bit = x * depth;
    out[x] = (row[bit >> 3] >> (8 - depth - (bit & 7))) & mask;
  }
}

/** PNG bytes -> {width, height, labels}: labels is a Uint8Array of height x width class numbers. */
export async function decodeLabels(bytes) {
  const { width, height, depth, colour, interlaced, data } = readChunks(bytes);
  if (![GREY, PALETTE].includes(colour) || depth > 8 || interlaced) throw new Error("not a label map of 8 bits");
  const raw = await through(new DecompressionStream("deflate"), await new Blob(data).arrayBuffer());
  const stride = Math.ceil((width * depth) / 8);
  const labels = new Uint8Array(width * height);
  let above = new Uint8Array(stride);
  for (let y = 0; y < height; y++) {
    const start = y * (stride + 1);
    const row = raw.subarray(start + 1, start + 1 + stride);
    unfilter(raw[start], row, above);
    unpack(row, depth, labels.subarray(y * width, (y + 1) * width));
    above = row;
  }
  return { width, height, labels };
}

const CRC = Uint32Array.from({ length: 256 }, (_, value) => {
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});

function chunk(name, body) {
  const bytes = new Uint8Array(12 + body.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, body.length);
  bytes.set([...name].map((letter) => letter.charCodeAt(0)), 4);
  bytes.set(body, 8);
  let crc = 0xffffffff;
  for (let i = 4; i < 8 + body.length; i++) crc = CRC[(crc ^ bytes[i]) & 255] ^ (crc >>> 8);
  view.setUint32(8 + body.length, (crc ^ 0xffffffff) >>> 0);
  return bytes;
}

/** A label map -> PNG blob of 8-bit grey whose values are the class numbers. The labels are read before the first wait. */
export async function encodeLabels(labels, width, height) {
  const raw = new Uint8Array((width + 1) * height);
  for (let y = 0; y < height; y++) raw.set(labels.subarray(y * width, (y + 1) * width), y * (width + 1) + 1);
  const header = new Uint8Array(13);
  new DataView(header.buffer).setUint32(0, width);
  new DataView(header.buffer).setUint32(4, height);
  header.set([8, GREY, 0, 0, 0], 8);
  const packed = await through(new CompressionStream("deflate"), raw);
  const parts = [new Uint8Array(SIGNATURE), chunk("IHDR", header), chunk("IDAT", packed), chunk("IEND", new Uint8Array(0))];
  return new Blob(parts, { type: "image/png" });
}
