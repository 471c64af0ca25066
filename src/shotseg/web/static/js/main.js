// Starts the page and joins its parts: every action has one name, whether a key or a button asks for it.

import { get, login, photoOfAddress, write } from "./api.js";
import { askConflict, editClass, showAreas, showExport, showKeys } from "./dialogs.js";
import { byId, debounce } from "./dom.js";
import { Editor } from "./editor.js";
import { chosenLanguage, loadTexts, t } from "./i18n.js";
import { listenToKeys } from "./keys.js";
import { buildTools, note, showClasses, showEncoding, showFilters, showHint, showPhoto, showProject, showSaved, showTools } from "./panels.js";
import { Pointers } from "./pointer.js";
import { isDecided, Queue } from "./queue.js";
import { listenToServer } from "./server_events.js";
import { Stage } from "./stage.js";
import { TOOLS } from "./tools.js";
import { listenToDrops, listenToFolder } from "./upload.js";
import { Writer } from "./writer.js";

const LARGEST_BRUSH = 200;
const ZOOM_STEP = 1.3;
const AHEAD = 2; // photos that are fetched before they are asked for

const stage = new Stage();
const writer = new Writer();
const editor = new Editor(stage, writer);
const queue = new Queue();
let project = { classes: [], formats: [], counts: {}, encoding: { done: 0, total: 0, running: false } };
let lastDecision = null;
let reviewing = false; // the photo at hand was decided when it was opened: after it comes the next one of any state
let failed = null; // the photo that could not be opened, and why: { id, reason }

const fail = (error) => note(error.message, true);

async function loadProject() {
  const newest = await get("/project");
  const [chosen, before] = [editor.classes[editor.classIndex]?.id, project.classes.length];
  project = newest;
  editor.classes = project.classes;
  editor.classIndex = Math.max(0, project.classes.findIndex(({ id }) => id === chosen));
  stage.setColours(project.classes);
  if (project.classes.length < before && editor.record) followSoon(editor.record.id);
  showProject(project);
  showFilters(project.classes);
  showAll();
}

const loadProjectSoon = debounce(300, () => loadProject().catch(fail), 1000);

function showAll() {
  showClasses(project.classes, editor.classIndex, { pick: chooseClass, edit: changeClass });
  showTools(editor);
  showPhoto(editor.record, project.classes);
  showSaved(writer);
  showHint(project, editor);
  stage.root.classList.toggle("blank", !editor.map);
  byId("stage-empty").textContent = editor.map ? "" : failed ? failed.reason : t(project.classes.length ? "stage.empty" : "stage.first");
}

// --- moving ---

async function openPhoto(item) {
  if (!item) return note(t("queue.end"));
  if (item.id !== queue.current) reviewing = isDecided(item);
  queue.choose(item.id);
  failed = null;
  try {
    if (!(await editor.open(item))) return;
    fetchAhead();
  } catch (error) {
    if (queue.current !== item.id) return;
    const reason = error.message;
    failed = { id: item.id, reason: reason.includes(item.file) ? reason : t("photo.unreadable", { file: item.file, reason }) };
    editor.close();
  }
  history.replaceState(null, "", `#photo=${encodeURIComponent(item.id)}`); // once it is shown: it takes milliseconds
}

/** What comes next is fetched before it is asked for, and again where its mask or the order has changed. */
const fetchAhead = () => editor.record && queue.upcoming(AHEAD).forEach((next) => editor.photos.prefetch(next));
const fetchAheadSoon = debounce(100, fetchAhead, 300);

function decide(state) {
  const { record } = editor;
  if (!record || record.id !== queue.current) return;
  lastDecision = state;
  editor.finish();
  const next = queue.neighbour(1, !reviewing);
  editor.setState(state);
  if (state !== "open") next ? openPhoto(next) : note(t(reviewing ? "queue.end" : "queue.done"));
}

// --- classes ---

function chooseClass(index) {
  editor.classIndex = index;
  showAll();
  stage.draw("stroke");
}

function changeClass(own) {
  const path = `/classes/${encodeURIComponent(own?.id ?? "")}`;
  const taken = project.classes.map(({ key }) => key);
  editClass(own, {
    colour: project.next_colour,
    taken,
    save: (said) => (own ? write("PATCH", path, { json: said }) : write("POST", "/classes", { json: said })),
    saved: async () => {
      await loadProject().catch(fail);
      if (!own) chooseClass(project.classes.length - 1);
    },
    others: project.classes.filter(({ id }) => id !== own?.id),
    remove: async (into) => {
      await write("DELETE", path, { query: { into } }).catch(fail);
      await Promise.all([loadProject(), queue.refresh()]).catch(fail);
    },
  });
}

// --- the table of actions ---

function resizeBrush(step) {
  const by = Math.max(1, Math.round(editor.size * 0.15));
  setBrush(editor.size + step * by);
}

function setBrush(size) {
  editor.size = Math.min(LARGEST_BRUSH, Math.max(1, Math.round(size)));
  showTools(editor);
  stage.draw("stroke");
}

function setOpacity(part) {
  stage.opacity = Math.min(1, Math.max(0, part));
  byId("opacity").value = Math.round(100 * stage.opacity);
  stage.draw("mask");
}

function setTool(name) {
  editor.cancel();
  editor.tool = name;
  showTools(editor);
  stage.draw("stroke");
}

const pan = (dx, dy) => stage.pan((dx * stage.view.width) / 8, (dy * stage.view.height) / 8);

const ACTIONS = {
  accept: () => editor.finish() || decide("accepted"),
  reject: () => decide("rejected"),
  reopen: () => decide("open"),
  repeat: () => lastDecision && decide(lastDecision),
  next: () => openPhoto(queue.neighbour(1)),
  previous: () => openPhoto(queue.neighbour(-1)),
  nextOpen: () => openPhoto(queue.neighbour(1, true)),
  smaller: () => resizeBrush(-1),
  larger: () => resizeBrush(1),
  undo: () => editor.undo(),
  redo: () => editor.redo(),
  cancel: () => editor.cancel(),
  clearStrokes: () => editor.clearStrokes(),
  notHere: () => editor.clearClass(),
  newClass: () => changeClass(null),
  zoomIn: () => stage.zoom(ZOOM_STEP),
  zoomOut: () => stage.zoom(1 / ZOOM_STEP),
  fit: () => stage.fit(),
  zoomObject: () => {
    const box = editor.bounds();
    if (box) stage.fitBox(box);
  },
  moveLeft: () => pan(1, 0),
  moveRight: () => pan(-1, 0),
  moveUp: () => pan(0, 1),
  moveDown: () => pan(0, -1),
  fainter: () => setOpacity(stage.opacity - 0.1),
  stronger: () => setOpacity(stage.opacity + 0.1),
  search: () => byId("search").focus(),
  upload: () => byId("upload-input").click(),
  areas: () => showAreas(project.classes).catch(fail),
  export: () => showExport(project, fail),
  keys: showKeys,
  ...Object.fromEntries(Object.keys(TOOLS).map((name) => [name, () => setTool(name)])),
};

function act(name) {
  ACTIONS[name]();
  showTools(editor);
}

function hold(name, down) {
  if (name === "pan") pointers.spaceHeld = down;
  if (name === "hide" && stage.hidden !== down) {
    stage.hidden = down;
    stage.draw("mask", "stroke");
  }
}

function digit(key) {
  const index = project.classes.findIndex((own) => own.key === key);
  if (index >= 0) chooseClass(index);
}

const pointers = new Pointers(stage, {
  down: (point, erase) => editor.down(point, erase),
  move: (points) => editor.move(points),
  up: () => editor.up(),
  cancel: () => editor.cancel(),
  hover: (point) => editor.hover(point),
  size: resizeBrush,
});

// --- what comes from elsewhere ---

async function reopen(id) {
  const record = await get(`/photos/${encodeURIComponent(id)}`);
  queue.update(record);
  await openPhoto(record);
}

async function follow(id) {
  const record = await get(`/photos/${encodeURIComponent(id)}`);
  queue.update(record);
  await editor.refresh(record);
  if (failed?.id === id) await openPhoto(record);
}

const followSoon = debounce(150, (id) => follow(id).catch(fail));

function refreshAllSoon() {
  queue.refreshSoon();
  loadProjectSoon();
}

function photoChanged(record) {
  queue.update(record);
  refreshAllSoon();
  fetchAheadSoon();
  if (record.id === queue.current) followSoon(record.id);
}

function joinParts() {
  editor.onchange = showAll;
  editor.onnoclass = () => changeClass(null);
  stage.onview = () => {
    byId("zoom").textContent = editor.map ? `${Math.round((100 * stage.view.scale) / stage.ratio)} %` : "";
    editor.sharpen();
  };
  writer.onchange = () => showSaved(writer);
  writer.onconflict = askConflict;
  writer.onfailure = (record, error) => note(t("saved.failed", { file: record.file, reason: error.message }), true);
  writer.onrecord = (record, theirs) => {
    queue.update(record);
    editor.adopt(record);
    if (theirs && record.id === queue.current) reopen(record.id).catch(fail);
  };
  queue.onpick = openPhoto;
  queue.onerror = fail;
  queue.onorder = fetchAheadSoon;
  queue.writes = (id) => writer.writes(id);
  listenToKeys({ act, digit, hold });
  listenToDrops({
    added: () => queue.refreshSoon(),
    refused: ({ file, reason }) => note(t("upload.refused", { file, reason }), true),
    failed: (file, error) => note(t("upload.refused", { file, reason: error.message }), true),
  });
  for (const button of document.querySelectorAll("[data-action]")) button.addEventListener("click", () => act(button.dataset.action));
  byId("opacity").addEventListener("input", (event) => setOpacity(event.target.value / 100));
  byId("brush").addEventListener("input", (event) => setBrush(Number(event.target.value)));
  byId("brightness").addEventListener("input", (event) => (byId("photo-canvas").style.filter = `brightness(${event.target.value}%)`));
  byId("language").addEventListener("change", (event) => speak(event.target.value).catch(fail));
  byId("examples-switch").addEventListener("change", (event) => write("PATCH", "/project", { json: { examples_from_reviewed: event.target.checked } }).catch(fail));
  byId("encoding-switch").addEventListener("click", (event) => {
    const running = event.currentTarget.dataset.running !== "true";
    write("POST", "/encoding", { json: { running } }).then(showEncoding, fail);
  });
}

async function speak(language) {
  await loadTexts(language);
  byId("language").value = language;
  buildTools(act);
  showProject(project);
  showFilters(project.classes);
  queue.show();
  showAll();
}

async function start() {
  await speak(chosenLanguage());
  joinParts();
  await login();
  await loadProject();
  await queue.refresh();
  listenToServer({ photo: photoChanged, project: loadProjectSoon, encoding: showEncoding, note: ({ text }) => note(text), again: refreshAllSoon });
  listenToFolder(refreshAllSoon);
  const first = (await photoOfAddress()) ?? queue.neighbour(1, true) ?? queue.neighbour(1);
  if (first) await openPhoto(first);
}

start().catch(fail);
