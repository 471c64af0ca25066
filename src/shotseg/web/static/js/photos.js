// Fetches photos and their masks, and keeps the few that were just seen or come next.

import { address, getRaw } from "./api.js";
import { decodeLabels } from "./png.js";

const KEPT = 6;
export const FIRST_SIDE = 2048;
const LARGEST_SIDE = 8192;

export class Photos {
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

  picture({ id }, side = FIRST_SIDE) {
    return this.#keep(this.#pictures, `${id} ${side}`, async () => {
      const answer = await getRaw(`/photos/${encodeURIComponent(id)}/image`, { side });
      return createImageBitmap(await answer.blob());
    });
  }

  /** The photo in all its pixels, asked for only when one zooms in beyond the first picture. */
  sharp(record) { return this.picture(record, Math.min(LARGEST_SIDE, Math.max(record.width, record.height))); }

  /** A fresh copy of the label map: the caller draws into it. */
  async mask(record) {
    const key = `${record.id} ${record.version}`;
    const { width, height, labels } = await this.#keep(this.#masks, key, async () => {
      const answer = await getRaw(`/photos/${encodeURIComponent(record.id)}/mask`, { version: record.version });
      return decodeLabels(new Uint8Array(await answer.arrayBuffer()));
    });
    return { width, height, labels: labels.slice() };
  }

  prefetch(record) {
    for (const wanted of [this.picture(record), this.mask(record)]) wanted.catch(() => {});
  }
}

export const thumbnail = ({ id }) => address(`/photos/${encodeURIComponent(id)}/thumbnail`);
