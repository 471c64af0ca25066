// Everything that the page writes about photos goes through one line, in order: nothing is lost, nothing overtakes.
// A guess of the server's never wins over a person; two persons (or tabs) are asked.

import { ApiError, get, writeUntilAnswered } from "./api.js";

const GUESSES = new Set(["open", "predicted", "failed"]);

export class Writer {
  #tail = Promise.resolve();
  #versions = new Map();
  #writing = [];
  away = false;
  onchange = () => {};
  onrecord = () => {};
  onfailure = () => {};
  onconflict = async () => "theirs";

  constructor() {
    window.addEventListener("beforeunload", (event) => {
      if (this.pending) event.preventDefault();
    });
  }

  get pending() { return this.#writing.length; }

  /** Whether something of this photo is not yet at the server, so that what the server says of it is old. */
  writes(id) { return this.#writing.includes(id); }

  /** The version of a photo that the person is looking at. */
  seen(record) { this.#versions.set(record.id, record.version); }

  /**
   * Adds `task` to the line. It gets `send(method, path, options)`, where options.version names how to state the version
   * ("json" or "query"), and may send more than once. Resolves to the photo's record, or to null where nothing was written.
   */
  add(record, task, settle = null) {
    this.#writing.push(record.id);
    this.onchange();
    const run = this.#tail.then(() => this.#run(record, task, settle));
    this.#tail = run.catch(() => {});
    return run;
  }

  async #run(record, task, settle) {
    try {
      const answer = await task((...request) => this.#send(record, settle, ...request));
      if (answer) this.onrecord(answer);
      return answer;
    } catch (error) {
      this.onfailure(record, error);
      return null;
    } finally {
      this.#writing.splice(this.#writing.indexOf(record.id), 1);
      this.onchange();
    }
  }

  async #send(record, settle, method, path, { stated, json, query, ...rest }) {
    for (;;) {
      const version = this.#versions.get(record.id) ?? record.version;
      const options = stated === "query" ? { ...rest, query: { ...query, version } } : { ...rest, json: { ...json, version } };
      try {
        const answer = await writeUntilAnswered(method, `/photos/${encodeURIComponent(record.id)}${path}`, options, () => this.#mark(true));
        this.#mark(false);
        this.seen(answer);
        return answer;
      } catch (error) {
        this.#mark(false);
        if (!(error instanceof ApiError) || error.status !== 409) throw error;
        if (!(await this.#resolve(record, settle))) return null;
      }
    }
  }

  /** After a 409: true to write again over the newest version, false to leave what is there. */
  async #resolve(record, settle) {
    const newest = await get(`/photos/${encodeURIComponent(record.id)}`);
    if (GUESSES.has(newest.state) || (await this.onconflict(newest)) === "mine") {
      this.seen(newest);
      if (settle) await settle((...request) => this.#send(record, null, ...request));
      return true;
    }
    this.seen(newest);
    this.onrecord(newest, true);
    return false;
  }

  #mark(away) {
    if (this.away === away) return;
    this.away = away;
    this.onchange();
  }
}
