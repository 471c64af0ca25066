// The bars and lists around the stage: tools, classes, counts, and what is known of the photo.

import { byId, el, percent } from "./dom.js";
import { t } from "./i18n.js";
import { KEYS } from "./keys.js";
import { shownState, STATES } from "./queue.js";

const ICONS = {
  brush: "M3 13c2 0 3-1 3-2.5S7.5 8 8 8l5.5-5.5M8 8l1.5 1.5L14 4",
  eraser: "M6 13H13M2.5 9.5l6-6 4.5 4.5-5 5H5.5z",
  lasso: "M3 7c0-3 3-4 5.5-4S14 4.500 14 7s-3 4-5.500 4S5 10.500 5 12s1 2 2 2",
  polygon: "M3 5l6-2.500 4.500 5L10 13H4z",
  box: "M3 4h10v8H3z",
  fill: "M3 8l5-5 5 5-5 5zM3 8h10M14 11v2",
  inside: "M3 12C5 4 7 4 8 8s3 4 5-4M11 13h4M13 11v4",
  outside: "M3 12C5 4 7 4 8 8s3 4 5-4M11 13h4",
  undo: "M6 4L3 7l3 3M3 7h6.500a3 3 0 010 6H7",
  redo: "M10 4l3 3-3 3M13 7H6.500a3 3 0 000 6H9",
};
const GROUPS = [["brush", "eraser"], ["lasso", "polygon", "box", "fill"], ["inside", "outside"], ["undo", "redo"]];

function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

export function buildTools(act) {
  const groups = GROUPS.map((names) => el("div", { class: "group" }, ...names.map((name) => {
    const key = KEYS.find(({ action }) => action === name).shown[0];
    const text = t(`tool.${name}`);
    return el("button", { type: "button", "data-tool": name, title: `${text} (${key})`, "aria-label": text, onclick: () => act(name) }, icon(name), el("span", { class: "word" }, text));
  })));
  byId("tools").replaceChildren(...groups);
}

export function showTools(editor) {
  for (const button of byId("tools").querySelectorAll("[data-tool]")) {
    const name = button.dataset.tool;
    if (name === "undo") button.disabled = !editor.history.canUndo;
    else if (name === "redo") button.disabled = !editor.history.canRedo;
    else button.setAttribute("aria-pressed", String(name === editor.tool));
  }
  byId("brush").value = editor.size;
  byId("brush-size").textContent = `${editor.size} px`;
}

export function showClasses(classes, chosen, { pick, edit }) {
  const list = byId("classes");
  const focused = [...list.querySelectorAll("button")].indexOf(document.activeElement);
  list.replaceChildren(...classes.map((own, index) => {
    const swatch = el("span", { class: "swatch", "aria-hidden": "true" });
    swatch.style.backgroundColor = own.colour;
    const examples = el("span", { class: "muted small examples", title: t("classes.examples", { number: own.examples }) }, String(own.examples));
    return el("li", {},
      el("button", { type: "button", class: "pick", "aria-pressed": String(index === chosen), "aria-label": `${own.name}, ${t("classes.examples", { number: own.examples })}`, onclick: () => pick(index) }, swatch, el("span", { class: "name", title: own.name }, own.name), examples, own.key ? el("kbd", {}, own.key) : null),
      el("button", { type: "button", class: "edit", "aria-label": t("classes.editOne", { name: own.name }), title: t("classes.editOne", { name: own.name }), onclick: () => edit(own) }, "✎"));
  }));
  list.querySelectorAll("button")[focused]?.focus();
}

export function showFilters(classes) {
  fill("filter-state", [["", t("state.all")], ...STATES.map((state) => [state, t(`state.${state}`)])]);
  fill("filter-class", [["", t("classes.all")], ...classes.map(({ id, name }) => [id, name])]);
}

function fill(id, choices) {
  const list = byId(id);
  const chosen = list.value;
  list.replaceChildren(...choices.map(([value, text]) => el("option", { value }, text)));
  list.value = choices.some(([value]) => value === chosen) ? chosen : "";
}

export function showProject({ name, counts, encoding, examples_from_reviewed: examples }) {
  byId("project-name").textContent = name ? `· ${name}` : "";
  document.title = name ? `${name} · shotseg` : "shotseg";
  const shown = STATES.filter((state) => counts[state]);
  byId("counts").replaceChildren(...shown.map((state) => el("span", { class: `state state-${state}`, title: t(`state.${state}`) }, el("b", {}, String(counts[state])), el("span", { class: "optional" }, ` ${t(`state.${state}`)}`))));
  if (examples !== undefined) byId("examples-switch").checked = examples;
  showEncoding(encoding);
}

/** The one line on what the model does: it loads, it encodes, or it decides again after something was learnt. */
export function showEncoding({ done, total, running = true, waiting = 0, loading = false }) {
  const encodes = done < total;
  byId("encoding").hidden = !loading && !encodes && !waiting;
  byId("encoding-switch").hidden = loading || !encodes;
  byId("encoding-label").textContent = loading ? t("encoding.loading") : encodes ? t("encoding.text", { done, total }) : t("encoding.waiting", { waiting });
  byId("encoding-switch").textContent = t(running ? "encoding.stop" : "encoding.go");
  byId("encoding-switch").dataset.running = running;
  Object.assign(byId("encoding-bar"), { max: Math.max(total, 1), value: encodes ? done : total - waiting });
}

const POSSIBLE = 0.1; // less present, and without a pixel, a class is not spoken of

export function showPhoto(record, classes) {
  const rows = [];
  const add = (name, value) => rows.push(el("dt", {}, name), el("dd", {}, value));
  if (record) {
    add(t("photo.size"), `${record.width} × ${record.height}`);
    if (record.scale_max < 1) add(t("photo.shown"), t("photo.shownAt", { scale: percent(record.scale_max) }));
    if (record.pages > 1) add(t("photo.page"), t("photo.pageOf", { pages: record.pages }));
    add(t("photo.state"), t(`state.${shownState(record)}`));
    if (record.confidence != null) add(t("queue.confidence"), percent(record.confidence));
    for (const { id, name } of classes) {
      const [area, present] = [record.areas?.[id] ?? 0, record.confidence == null ? 0 : record.present?.[id] ?? 0];
      if (area || present >= POSSIBLE) add(t("photo.area", { name }), percent(area, 1));
      if (present >= POSSIBLE) add(t("photo.present", { name }), percent(present));
    }
    if (record.error) add(t("photo.error"), record.error);
  }
  byId("details").replaceChildren(...rows);
  byId("photo-info").textContent = record?.file ?? "";
  byId("photo-info").title = record?.file ?? "";
}

const ENOUGH = 3; // photos drawn by hand, after which a person knows the way

let lined = null; // the photo below the line: while it is at hand the line stays as it is, so that nothing moves under the pointer

/** What a newcomer does next, until a prediction was decided on. */
export function showHint({ name, classes, counts }, { record, classIndex }) {
  const decided = counts.accepted || counts.rejected || counts.corrected >= ENOUGH;
  const untaught = classes.length && !classes.some(({ examples }) => examples);
  let hint = "";
  if (!record || decided) hint = "";
  else if (!classes.length) hint = t("hint.class");
  else if (record.state === "predicted") hint = t("hint.review");
  else if (untaught) hint = t("hint.draw", { name: classes[classIndex].name });
  else if (counts.predicted) hint = t("hint.next");
  byId("hint").textContent = hint;
  if (!record || record.id !== lined) byId("hint").hidden = Boolean(decided || !name);
  lined = record?.id;
}

export function showSaved({ pending, away }) {
  const text = away ? t("saved.away") : pending ? t("saved.pending") : t("saved.all");
  const place = byId("saved");
  if (place.textContent !== text) place.textContent = text;
  place.classList.toggle("pending", pending > 0);
}

const LONGEST = 12000;

export function note(text, bad = false) {
  const line = el("div", { class: bad ? "note bad" : "note" }, el("span", {}, text));
  line.append(el("button", { type: "button", "aria-label": t("close"), onclick: () => line.remove() }, "✕"));
  byId("notes").append(line);
  while (byId("notes").children.length > 4) byId("notes").firstChild.remove();
  if (!bad) setTimeout(() => line.remove(), LONGEST);
}
