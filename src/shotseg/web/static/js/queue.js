// The list of photos: what the server sorts and filters, shown page by page.

import { get } from "./api.js";
import { byId, debounce, el, percent } from "./dom.js";
import { t } from "./i18n.js";
import { thumbnail } from "./photos.js";

const PAGE = 100;
export const STATES = ["open", "predicted", "accepted", "corrected", "rejected", "failed"];
export const shownState = ({ state, error }) => (error ? "failed" : state);
const TODO = new Set(["open", "predicted"]);
export const isDecided = ({ state }) => !TODO.has(state);

export class Queue {
  items = [];
  total = 0;
  current = null;
  onpick = () => {};
  onerror = () => {};
  onorder = () => {};
  writes = () => false;
  #turn = 0;
  #loading = false;
  #place = 0; // where the photo at hand was in the list, which its state may have led out of it
  #rows = new Map(); // id -> its row, and what it says: one that says the same stays, and its picture with it

  constructor() {
    this.list = byId("queue");
    this.refreshSoon = debounce(700, () => this.refresh(), 3000);
    for (const id of ["sort", "filter-state", "filter-class", "filter-doubt"]) byId(id).addEventListener("change", () => this.refresh());
    byId("search").addEventListener("input", debounce(250, () => this.refresh()));
    this.list.addEventListener("scroll", () => {
      if (this.list.scrollTop + 2 * this.list.clientHeight > this.list.scrollHeight) this.more();
    });
  }

  #asked(offset, limit) {
    return { sort: byId("sort").value, state: byId("filter-state").value, class: byId("filter-class").value, below: byId("filter-doubt").value, query: byId("search").value, offset, limit };
  }

  /** Fetches as many as are shown, anew. */
  async refresh() {
    const turn = ++this.#turn;
    try {
      const items = [];
      let total = 0;
      do {
        const answer = await get("/photos", this.#asked(items.length, PAGE));
        if (turn !== this.#turn) return;
        items.push(...answer.items);
        total = answer.total;
      } while (items.length < total && items.length < this.items.length);
      const at = this.items.findIndex(({ id }) => id === this.current);
      if (at >= 0) this.#place = at;
      const known = new Map(this.items.map((item) => [item.id, item]));
      const newest = (item) => (known.get(item.id)?.version > item.version ? known.get(item.id) : item);
      Object.assign(this, { items: items.map(newest), total });
      this.show();
      this.onorder();
    } catch (error) {
      this.onerror(error);
    }
  }

  async more() {
    if (this.#loading || this.items.length >= this.total) return;
    const turn = this.#turn;
    this.#loading = true;
    const answer = await get("/photos", this.#asked(this.items.length, PAGE)).catch(this.onerror);
    this.#loading = false;
    if (!answer || turn !== this.#turn) return;
    this.items.push(...answer.items);
    this.show();
  }

  find(id) { return this.items.find((item) => item.id === id); }

  /** A newer record of a photo; it keeps its place until the list is fetched again. */
  update(record) {
    const known = this.find(record.id);
    if (!known || known.version > record.version) return;
    Object.assign(known, record);
    const before = this.#rows.get(record.id).row;
    const after = this.#row(known);
    if (after !== before) before.replaceWith(after);
  }

  show() {
    const focused = this.list.contains(document.activeElement) ? document.activeElement.dataset.id : null;
    const rows = this.items.map((item) => this.#row(item));
    this.#rows = new Map(this.items.map(({ id }) => [id, this.#rows.get(id)]));
    if (rows.length !== this.list.children.length || rows.some((row, i) => row !== this.list.children[i])) this.list.replaceChildren(...rows);
    if (!this.list.querySelector('[tabindex="0"]')) this.list.querySelector("button")?.setAttribute("tabindex", "0"); // Tab stops once
    byId("queue-total").textContent = t("queue.total", { shown: rows.length, total: this.total });
    if (focused) this.list.querySelector(`[data-id="${CSS.escape(focused)}"]`)?.focus();
  }

  #row(item) {
    const name = shownState(item);
    const [said, sureness, source] = [t(`state.${name}`), item.confidence == null ? "" : percent(item.confidence), thumbnail(item)];
    const told = [name, said, sureness, item.file, source].join("\n");
    const known = this.#rows.get(item.id);
    if (known?.told === told) return known.row;
    const state = el("span", { class: `state state-${name}` }, said);
    const sure = el("span", { title: t("queue.confidence") }, sureness);
    const text = el("span", {}, el("span", { class: "file", title: item.file }, item.file), el("span", { class: "facts" }, state, sure));
    const picture = el("img", { src: source, alt: "", loading: "lazy", decoding: "async", onerror: () => this.#missing(item.id, picture) });
    const chosen = item.id === this.current;
    const button = el("button", { type: "button", "data-id": item.id, "aria-current": chosen && "true", tabindex: chosen ? 0 : -1, onclick: () => this.onpick(this.find(item.id)) }, picture, text);
    const row = el("li", {}, button);
    this.#rows.set(item.id, { row, told });
    return row;
  }

  /** The next time that the list is shown the picture is asked for anew. */
  #missing(id, picture) {
    picture.classList.add("missing");
    const own = this.#rows.get(id);
    if (own?.row.contains(picture)) own.told = null;
  }

  choose(id) {
    const before = this.list.querySelector("[aria-current]");
    const focused = this.list.contains(document.activeElement);
    before?.removeAttribute("aria-current");
    before?.setAttribute("tabindex", "-1");
    this.current = id;
    const row = this.list.querySelector(`[data-id="${CSS.escape(id ?? "")}"]`);
    row?.setAttribute("aria-current", "true");
    row?.setAttribute("tabindex", "0");
    if (focused) row?.focus({ preventScroll: true });
    row?.scrollIntoView({ block: "nearest" });
  }

  /** The photo `step` places on; with `todo` the next one that nobody has decided on. */
  neighbour(step, todo = false) {
    if (todo) return this.upcoming(1)[0] ?? null;
    return this.items[this.#at(step) + step] ?? null;
  }

  /** The next photos that nobody has decided on, saved or not; from the top where none is below. */
  upcoming(count) {
    const at = this.#at();
    const order = [...this.items.slice(at + 1), ...this.items.slice(0, Math.max(at, 0))];
    return order.filter(({ id, state, error }) => TODO.has(state) && !error && !this.writes(id)).slice(0, count);
  }

  #at(step = 1) {
    const at = this.items.findIndex(({ id }) => id === this.current);
    return at < 0 && step > 0 ? this.#place - 1 : at < 0 ? this.#place : at;
  }
}
