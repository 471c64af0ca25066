// Where the photo lies on the stage: one scale (device pixels per image pixel) and one offset.

const MOST = 64;

export class View {
  scale = 1;
  x = 0;
  y = 0;
  width = 1;
  height = 1;

  /** The stage's size in device pixels. */
  resize(width, height) {
    Object.assign(this, { width, height });
  }

  toImage([x, y]) { return [(x - this.x) / this.scale, (y - this.y) / this.scale]; }
  toStage([x, y]) { return [x * this.scale + this.x, y * this.scale + this.y]; }

  pan(dx, dy) {
    this.x += dx;
    this.y += dy;
  }

  /** Zooms so that the image's point under `point` (device pixels) stays where it is. */
  zoom(factor, point = [this.width / 2, this.height / 2]) {
    const [ix, iy] = this.toImage(point);
    this.scale = Math.min(MOST, Math.max(0.02, this.scale * factor));
    this.x = point[0] - ix * this.scale;
    this.y = point[1] - iy * this.scale;
  }

  /** Shows a rectangle of the image as large as it goes, with a margin (a part of the stage). */
  fit({ x0, y0, x1, y1 }, margin = 0.03) {
    const room = 1 - 2 * margin;
    this.scale = Math.min(MOST, (room * this.width) / (x1 - x0), (room * this.height) / (y1 - y0));
    this.x = (this.width - (x0 + x1) * this.scale) / 2;
    this.y = (this.height - (y0 + y1) * this.scale) / 2;
  }

  /** What of an image of that size is on the stage, as a rectangle of the stage in whole device pixels. */
  visible(imageWidth, imageHeight) {
    const x0 = Math.max(0, Math.floor(this.x));
    const y0 = Math.max(0, Math.floor(this.y));
    const x1 = Math.min(this.width, Math.ceil(this.x + imageWidth * this.scale));
    const y1 = Math.min(this.height, Math.ceil(this.y + imageHeight * this.scale));
    return x0 < x1 && y0 < y1 ? { x0, y0, x1, y1 } : null;
  }
}
