// Pointers on the stage. The pen and the mouse draw; fingers pan and pinch once a pen was seen, two fingers always do.
// Space or the middle button pans, the wheel zooms to the pointer, Shift and the wheel changes the brush's size.

export class Pointers {
  #touches = new Map();
  #drawing = null;
  #panning = null;
  #penSeen = false;
  spaceHeld = false;

  /** `hand` has down(point, erase), move(points), up(), cancel(), hover(point | null), size(step). Points are image pixels. */
  constructor(stage, hand) {
    Object.assign(this, { stage, hand });
    const listen = (name, action) => stage.root.addEventListener(name, action);
    listen("pointerdown", (event) => this.#down(event));
    listen("pointermove", (event) => this.#move(event));
    listen("pointerup", (event) => this.#up(event));
    listen("pointercancel", (event) => this.#up(event, true));
    listen("pointerleave", () => hand.hover(null));
    listen("contextmenu", (event) => event.preventDefault());
    stage.root.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
  }

  #place(event) {
    const box = this.stage.root.getBoundingClientRect();
    return [(event.clientX - box.left) * this.stage.ratio, (event.clientY - box.top) * this.stage.ratio];
  }

  #inImage(event) { return this.stage.view.toImage(this.#place(event)); }

  #down(event) {
    if (!this.stage.map) return;
    this.stage.root.focus({ preventScroll: true });
    this.stage.root.setPointerCapture(event.pointerId);
    if (event.pointerType === "pen") this.#penSeen = true;
    if (event.pointerType === "touch") {
      this.#touches.set(event.pointerId, this.#place(event));
      if (this.#penSeen || this.#touches.size > 1) return this.#stopDrawing();
    }
    if (event.button === 1 || this.spaceHeld) {
      this.#panning = { id: event.pointerId, at: this.#place(event) };
      this.stage.root.classList.add("panning");
    } else if (this.#drawing === null) {
      this.#drawing = event.pointerId;
      this.hand.down(this.#inImage(event), event.altKey || event.button === 2 || (event.buttons & 32) > 0);
    }
    event.preventDefault();
  }

  #stopDrawing() {
    if (this.#drawing !== null) this.hand.cancel();
    this.#drawing = null;
  }

  #move(event) {
    if (event.pointerId === this.#drawing) {
      const passed = event.getCoalescedEvents?.() ?? [];
      this.hand.move((passed.length ? passed : [event]).map((each) => this.#inImage(each)));
    } else if (event.pointerId === this.#panning?.id) {
      const at = this.#place(event);
      this.stage.pan(at[0] - this.#panning.at[0], at[1] - this.#panning.at[1]);
      this.#panning.at = at;
    } else if (this.#touches.has(event.pointerId)) {
      this.#pinch(event);
    }
    if (event.pointerType !== "touch") this.hand.hover(this.#inImage(event));
  }

  #pinch(event) {
    const before = middle([...this.#touches.values()]);
    this.#touches.set(event.pointerId, this.#place(event));
    const after = middle([...this.#touches.values()]);
    this.stage.pan(after.x - before.x, after.y - before.y);
    if (before.spread && after.spread) this.stage.zoom(after.spread / before.spread, [after.x, after.y]);
  }

  #up(event, cancelled = false) {
    this.#touches.delete(event.pointerId);
    if (event.pointerId === this.#panning?.id) {
      this.#panning = null;
      this.stage.root.classList.remove("panning");
    }
    if (event.pointerId !== this.#drawing) return;
    this.#drawing = null;
    if (cancelled) this.hand.cancel();
    else this.hand.up();
  }

  #wheel(event) {
    event.preventDefault();
    if (!this.stage.map) return;
    const turned = event.deltaY || event.deltaX;
    if (event.shiftKey) this.hand.size(turned < 0 ? 1 : -1);
    else this.stage.zoom(Math.exp(-turned * (event.ctrlKey ? 0.01 : 0.0015)), this.#place(event));
  }
}

function middle(places) {
  const [x, y] = [0, 1].map((axis) => places.reduce((sum, place) => sum + place[axis], 0) / places.length);
  const spread = places.length > 1 ? Math.hypot(places[0][0] - places[1][0], places[0][1] - places[1][1]) : 0;
  return { x, y, spread };
}
