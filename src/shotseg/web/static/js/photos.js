// Fetches photos and their masks, and keeps the few that were just seen or come next.

import { address, get, getRaw } from "./api.js";
import { fillRuns, unpackRuns } from "./labels.js";

const KEPT = 6;
export const FIRST_SIDE = 2000;

export class Photos {
  #records = new Map();
  #pictures = new Map();
  #masks = new Map();

  #keep(store, key, make) {
    const found = store.get(key) ?? make();
    store.delete(key);
    store.set(key, found);
    found.catch(() => store.delete(key));
    if (store.size > KEPT) store.delete(store.keys().next().value);
    return found;
  }

  /** All that the server knows of a photo at this version, its strokes too. */
  details(record) { return this.#keep(this.#records, keyOf(record), () => get(`/photos/${encodeURIComponent(record.id)}`)); }

  picture({ id }, side = FIRST_SIDE) {
    return this.#keep(this.#pictures, `${id} ${side}`, async () => {
      const answer = await getRaw(`/photos/${encodeURIComponent(id)}/image`, { side });
      return createImageBitmap(await answer.blob());
    });
  }

  /** The photo in all the pixels that the server gives of it, asked for only when one zooms in beyond the first picture. */
  sharp(record) { return this.picture(record, Math.floor(Math.max(record.width, record.height) * record.scale_max)); }

  /** The label map to draw into, the same `before` a stroke, and the version of the photo that they belong to. */
  async mask(record) {
    const { version, runs } = await this.fetchRuns(record);
    this.#masks.delete(keyOf(record)); // it will be drawn on
    const { width, height } = record;
    const labels = fillRuns(runs, new Uint8Array(width * height));
    return { version, width, height, labels, before: labels.slice() };
  }

  /** The mask as it comes, and the version of the photo that it belongs to. */
  fetchRuns(record) {
    return this.#keep(this.#masks, keyOf(record), async () => {
      const answer = await getRaw(`/photos/${encodeURIComponent(record.id)}/mask/runs`);
      const version = Number(answer.headers.get("ETag")?.replaceAll('"', "") ?? record.version);
      return { version, runs: await unpackRuns(await answer.arrayBuffer()) };
    });
  }

  prefetch(record) {
    for (const wanted of [this.details(record), this.picture(record), this.fetchRuns(record)]) wanted.catch(() => {});
  }
}

const keyOf = ({ id, version }) => `${id} ${version}`;

export const thumbnail = ({ id }) => address(`/photos/${encodeURIComponent(id)}/thumbnail`);
