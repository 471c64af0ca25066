// Fetches photos and their masks, and keeps the few that were just seen or come next.

import { address, getRaw } from "./api.js";
import { decodeLabels } from "./png.js";

const KEPT = 6;
export const FIRST_SIDE = 2048;

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

  /** The photo in all the pixels that the server gives of it, asked for only when one zooms in beyond the first picture. */
  sharp(record) { return this.picture(record, Math.floor(Math.max(record.width, record.height) * record.scale_max)); }

  /** A fresh copy of the label map, to draw into, and the version of the photo that it belongs to. */
  async mask(record) {
    const key = `${record.id} ${record.version}`;
    const { labels, ...rest } = await this.#keep(this.#masks, key, async () => {
      const answer = await getRaw(`/photos/${encodeURIComponent(record.id)}/mask`);
      const version = Number(answer.headers.get("ETag")?.replaceAll('"', "") ?? record.version);
      return { version, ...(await decodeLabels(new Uint8Array(await answer.arrayBuffer()))) };
    });
    return { ...rest, labels: labels.slice() };
  }

  prefetch(record) {
    for (const wanted of [this.picture(record), this.mask(record)]) wanted.catch(() => {});
  }
}

export const thumbnail = ({ id }) => address(`/photos/${encodeURIComponent(id)}/thumbnail`);
