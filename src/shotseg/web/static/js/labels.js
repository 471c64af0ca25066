// Label maps as they come from the server, and as they are sent to it.

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
const GREY = 0;

async function through(stream, bytes) {
  return new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(stream)).arrayBuffer());
}

/** Bytes of the server -> runs: row after row, how many pixels in turn have one class number. */
export async function unpackRuns(bytes) {
  const raw = await through(new DecompressionStream("deflate"), bytes);
  const count = raw.length / 5;
  return { lengths: new Uint32Array(raw.buffer, 0, count), values: raw.subarray(4 * count) };
}

/** Writes runs into a label map of as many pixels. */
export function fillRuns({ lengths, values }, labels) {
  for (let i = 0, at = 0; i < lengths.length; i++) labels.fill(values[i], at, (at += lengths[i]));
  return labels;
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
