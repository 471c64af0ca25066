// A small plot in SVG: one bar a photo, a dashed line at the mean.

import { percent } from "./dom.js";

const SPACE = "http://www.w3.org/2000/svg";

function shape(name, attributes, text = null) {
  const node = document.createElementNS(SPACE, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== null) node.textContent = text;
  return node;
}

export function areaPlot(photos, mean, summary) {
  const most = Math.max(...photos.map(({ part }) => part), 1e-6);
  const height = (part) => (95 * part) / most;
  const plot = shape("svg", { class: "plot", viewBox: `0 0 ${photos.length} 100`, preserveAspectRatio: "none", role: "img", "aria-label": summary });
  photos.forEach(({ file, part }, i) => {
    const bar = shape("rect", { x: i + 0.1, y: 100 - height(part), width: 0.8, height: height(part) });
    bar.append(shape("title", {}, `${file}: ${percent(part, 1)}`));
    plot.append(bar);
  });
  plot.append(shape("line", { x1: 0, x2: photos.length, y1: 100 - height(mean), y2: 100 - height(mean) }));
  return plot;
}
