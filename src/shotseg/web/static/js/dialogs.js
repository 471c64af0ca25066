// What opens over the page: classes, export, areas, keys, and the question after two changes at once.

import { address, get, write } from "./api.js";
import { byId, el, percent } from "./dom.js";
import { called, t } from "./i18n.js";
import { KEYS } from "./keys.js";
import { areaPlot } from "./plot.js";

const dialog = () => byId("dialog");

function open(title, ...body) {
  byId("dialog-title").textContent = title;
  byId("dialog-body").replaceChildren(...body);
  if (dialog().open) dialog().close();
  dialog().returnValue = "";
  dialog().showModal();
}

const button = (text, action, kind = null) => el("button", { type: "button", class: kind, onclick: action }, text);
const close = () => dialog().close();
const actions = (...buttons) => el("div", { class: "dialog-actions" }, ...buttons);

export function showKeys() {
  const rows = KEYS.map(({ shown, action }) => el("li", {}, el("span", {}, t(`keys.${action}`)), el("span", {}, ...shown.map((key) => el("kbd", {}, called("key", key))))));
  open(t("keys.title"), el("ul", { class: "keys" }, ...rows), actions(button(t("close"), close, "primary")));
}

/** Asks for a class's name, colour and key. `own` is the class to change, or null for a new one, which gets `colour`; `saved` follows `save`. */
export function editClass(own, { colour: next, taken, others, save, saved, remove }) {
  const name = el("input", { type: "text", value: own?.name ?? "", required: true, maxlength: 100, autocomplete: "off" });
  const colour = el("input", { type: "color", value: own?.colour ?? next });
  const key = el("select", {}, el("option", { value: "" }, t("classes.noKey")), ...["1", "2", "3", "4", "5", "6", "7", "8", "9", "0"].map((digit) => el("option", { value: digit, disabled: taken.includes(digit) && digit !== own?.key }, digit)));
  key.value = own ? own.key ?? "" : ["1", "2", "3", "4", "5", "6", "7", "8", "9", "0"].find((digit) => !taken.includes(digit)) ?? "";
  const problem = el("p", { role: "alert", class: "problem" });
  const form = el("form", { class: "form" },
    el("label", {}, t("classes.name"), name),
    el("label", {}, t("classes.colour"), colour),
    el("label", {}, t("classes.key"), key),
    problem,
    actions(own && button(t("classes.remove"), () => confirmRemoval(own, remove), "reject first"), button(t("cancel"), close), el("button", { type: "submit", class: "primary" }, t("classes.save"))));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (form.inert) return; // Enter again, while the server is busy
    form.inert = true;
    const said = { name: name.value.trim(), key: key.value, colour: colour.value };
    const same = own && others.find((other) => other.name === said.name);
    if (same) return confirmJoin(own, same, remove);
    try {
      await save(said);
      close(); // at once: the next key is the page's
      await saved();
    } catch (error) {
      problem.textContent = error.message;
      form.inert = false;
      name.focus();
    }
  });
  open(t(own ? "classes.edit" : "classes.new"), form);
  name.focus();
}

function confirm(title, question, action) {
  const sure = async () => {
    close();
    await action();
  };
  open(title, el("p", {}, question), actions(button(t("cancel"), close, "primary"), button(title, sure, "reject")));
}

const confirmRemoval = (own, remove) => confirm(t("classes.remove"), t("classes.removeSure", { name: own.name }), () => remove());
const confirmJoin = (own, other, remove) => confirm(t("classes.join"), t("classes.joinSure", { name: own.name, other: other.name }), () => remove(other.id));

/** Resolves to "mine" or "theirs". Neither is at hand for a key that was meant for the page, and none closes it unanswered. */
export function askConflict(record) {
  return new Promise((resolve) => {
    open(t("conflict.title"), el("p", {}, t("conflict.text", { file: record.file, state: t(`state.${record.state}`) })), actions(button(t("conflict.theirs"), () => dialog().close("theirs")), button(t("conflict.mine"), () => dialog().close("mine"), "primary")));
    dialog().focus();
    const stay = (event) => event.key === "Escape" && event.preventDefault();
    dialog().addEventListener("keydown", stay);
    dialog().addEventListener("close", () => dialog().removeEventListener("keydown", stay), { once: true });
    dialog().addEventListener("close", () => resolve(dialog().returnValue === "mine" ? "mine" : "theirs"), { once: true });
  });
}

/** Counts first, then the file: what is left out is named with its reason. */
export async function showExport({ name, formats }, onerror) {
  const format = el("select", { "aria-label": t("export.format") }, ...formats.map((each) => el("option", { value: each }, called("format", each))));
  if (formats.includes("coco")) format.value = "coco";
  const reviewed = el("input", { type: "checkbox" });
  const counts = el("div", { role: "status" });
  const take = button(t("export.take"), () => download({ format: format.value, reviewed_only: reviewed.checked }, name, take, problem), "primary");
  const problem = el("p", { role: "alert", class: "problem" });
  const count = async () => {
    counts.replaceChildren(el("p", { class: "muted" }, t("export.counting")));
    take.disabled = true;
    try {
      const found = await get("/export", { format: format.value, reviewed_only: reviewed.checked });
      counts.replaceChildren(...countRows(found));
      take.disabled = found.photos === 0;
    } catch (error) {
      counts.replaceChildren(el("p", {}, error.message));
    }
  };
  format.addEventListener("change", count);
  reviewed.addEventListener("change", count);
  open(t("export.title"), el("div", { class: "form" }, el("label", {}, t("export.format"), format), el("label", { class: "check" }, reviewed, t("export.reviewed"))), counts, problem, actions(button(t("cancel"), close), take));
  await count().catch(onerror);
}

function countRows({ photos, masks, classes, left_out: left }) {
  const rows = Object.entries(classes).flatMap(([name, number]) => [el("dt", {}, name), el("dd", {}, String(number))]);
  const list = el("dl", { class: "details" }, el("dt", {}, t("export.photos")), el("dd", { id: "export-photos" }, String(photos)), el("dt", {}, t("export.masks")), el("dd", {}, String(masks)), ...rows);
  const regions = el("p", { class: "small muted" }, t("export.regions"));
  if (!left.length) return [list, regions, el("p", { class: "muted" }, t("export.nothingLeft"))];
  const names = left.map(({ file, reason }) => el("li", {}, `${file}: ${called("left", reason)}`));
  return [list, regions, el("h3", {}, t("export.left", { number: left.length })), el("ul", { class: "list", tabindex: "0", "aria-label": t("export.left", { number: left.length }) }, ...names)];
}

async function download(wanted, name, take, problem) {
  take.disabled = true;
  take.textContent = t("export.making");
  try {
    const answer = await write("POST", "/export", { json: wanted });
    const link = el("a", { href: URL.createObjectURL(await answer.blob()), download: `${name}-${wanted.format}.zip` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    close();
  } catch (error) {
    problem.textContent = error.message;
    take.disabled = false;
    take.textContent = t("export.take");
  }
}

/** Areas over the folder: a bar per photo by name, their mean as a line, the same numbers as text. */
export async function showAreas(classes) {
  const choice = el("select", { "aria-label": t("areas.class") }, ...classes.map(({ id, name }) => el("option", { value: id }, name)));
  const place = el("div");
  open(t("areas.title"), choice, place, actions(el("a", { class: "button first", href: address("/areas.csv"), download: "areas.csv" }, t("areas.csv")), button(t("close"), close, "primary")));
  const items = [];
  for (let total = 1; items.length < total; ) {
    const answer = await get("/photos", { sort: "name", offset: items.length, limit: 500 });
    items.push(...answer.items);
    total = answer.items.length ? answer.total : 0;
  }
  const draw = () => {
    const known = items.filter(({ areas }) => areas && choice.value in areas);
    const parts = known.map(({ areas }) => areas[choice.value]);
    if (!parts.length) return place.replaceChildren(el("p", { class: "muted" }, t("areas.none")));
    const mean = parts.reduce((sum, part) => sum + part, 0) / parts.length;
    const summary = t("areas.summary", { photos: parts.length, mean: percent(mean, 1), least: percent(Math.min(...parts), 1), most: percent(Math.max(...parts), 1) });
    place.replaceChildren(areaPlot(known.map(({ file }, i) => ({ file, part: parts[i] })), mean, summary), el("p", { class: "small muted" }, summary));
  };
  choice.addEventListener("change", draw);
  draw();
}
