// The page: takes a model and an image, has a worker run them, and shows the results.
import { colourOf, draw, labelOverlay, maskOverlay } from "./drawing.js";

const MAX_ROWS = 300; // of the table
const get = (id) => document.getElementById(id);

// A worker of a blob: URL keeps to the page's Content-Security-Policy; one of a file wouldn't.
const WORKER = URL.createObjectURL(
  new Blob([`import ${JSON.stringify(new URL("worker.js", document.baseURI).href)};`], {
    type: "text/javascript",
  }),
);

class Stopped extends Error {}

/** A worker that does one job at a time. */
class Engine {
  constructor() {
    this.worker = null; // starts with the first job
    this.jobs = new Map();
    this.number = 0;
  }

  start() {
    this.worker = new Worker(WORKER, { type: "module" });
    this.worker.onmessage = ({ data }) => {
      if (data.id === undefined) return showProgress(data.text, data.part);
      const { resolve, reject } = this.jobs.get(data.id);
      this.jobs.delete(data.id);
      if (data.error === undefined) return resolve(data.value);
      return reject(Object.assign(new Error(data.error), { isExpected: data.isExpected }));
    };
    this.worker.onerror = (event) => {
      event.preventDefault();
      this.stop(new Error("the page's worker failed"));
    };
  }

  /** Ends what runs, and the loaded model with it. */
  stop(reason = new Stopped()) {
    this.worker?.terminate();
    this.worker = null;
    for (const { reject } of this.jobs.values()) reject(reason);
    this.jobs.clear();
  }

  do(job, args) {
    if (!this.worker) this.start();
    const id = ++this.number;
    return new Promise((resolve, reject) => {
      this.jobs.set(id, { resolve, reject });
      this.worker.postMessage({ id, job, args });
    });
  }
}

const engine = new Engine();
// Each has a name, a file or url, a state ("new", "ready" or "decoded", "done", "failed", "stopped"),
// an error if it failed, and what the worker gave.
let model = null;
let image = null;
let working = null; // the model or image that the worker is busy with
let emphasised = null; // a detection, or a class's label

/** Brings the page to the model and image that were chosen last, one job after the other. */
async function work() {
  if (working) return;
  for (let step = nextStep(); step; step = nextStep()) {
    working = step === load ? model : image;
    try {
      await step(working);
    } catch (error) {
      if (error instanceof Stopped) continue;
      working.state = "failed";
      const text = error.isExpected ? error.message : `something went wrong (${error.message})`;
      working.error = `${working.name}: ${text}.`;
      showErrors();
      if (step === decode) showImage(false);
      if (step === run || !error.isExpected) restart(); // the state of its memory isn't known
    }
  }
  working = null;
  hideProgress();
}

function nextStep() {
  if (model?.state === "new") return load;
  if (image?.state === "new") return decode;
  if (image?.state === "decoded" && model?.state === "ready") return run;
  return null;
}

async function load(subject) {
  showProgress("Reading the model");
  const { file, url } = subject;
  const described = await engine.do("load", { file, url });
  Object.assign(subject, described, { state: "ready" });
  if (subject === model) showModel();
}

async function decode(subject) {
  showProgress("Decoding the image");
  const bitmap = await engine.do("decode", { file: subject.file });
  subject.bitmap?.close();
  subject.bitmap = bitmap;
  subject.state = "decoded";
  if (subject === image) showImage();
}

async function run(subject) {
  showProgress("Running the model");
  const result = await engine.do("run");
  subject.result = result;
  subject.state = "done";
  if (subject === image) showResult();
}

/** Ends the worker; the model is loaded again, and the image decoded, when they are needed. */
function restart() {
  engine.stop();
  if (model?.state === "ready") model.state = "new";
  if (image?.state === "decoded" || image?.state === "done") image.state = "new";
}

function openModel(source) {
  model = { ...source, state: "new" };
  restart();
  if (image) Object.assign(image, { state: "new", error: null }); // another model may take it
  showErrors();
  clearResult();
  setName("model", model.name);
  get("about").hidden = true;
  work();
}

function openImage(file) {
  const isRunning = working && working === image;
  image?.bitmap?.close();
  image = { file, name: file.name || "pasted image", state: "new" };
  showErrors();
  clearResult();
  setName("image", image.name);
  if (isRunning) showProgress("The image before is still in the model; this one is next");
  work();
}

function open(files) {
  const list = [...files];
  const isModel = (file) => /\.onnx$/i.test(file.name);
  const [chosen, picture] = [list.find(isModel), list.find((file) => !isModel(file))];
  if (chosen) openModel({ name: chosen.name, file: chosen });
  if (picture) openImage(picture);
}

function setName(which, text) {
  const shown = get(`${which}-name`);
  shown.textContent = shown.title = text;
  shown.parentElement.classList.add("chosen");
}

function showProgress(text, part = null) {
  say(`${text} …`);
  const bar = get("progress");
  bar.hidden = false;
  if (part === null) bar.removeAttribute("value");
  else bar.value = part;
  get("stop").hidden = false;
}

function hideProgress() {
  get("progress").hidden = true;
  get("stop").hidden = true;
  say(summary());
}

/** What a screen reader reads out, too: each sentence once. */
function say(text) {
  if (get("status").textContent !== text) get("status").textContent = text;
}

function summary() {
  const names = [model ? null : "a model", image ? null : "an image"].filter(Boolean);
  if (names.length) return `Choose ${names.join(" and ")}.`;
  if (model.state === "failed" || image.state === "failed") return "Choose another file.";
  if (image.state === "stopped" || model.state === "stopped") return "Stopped.";
  const { width, height } = image.bitmap;
  const seconds = image.result.seconds.toFixed(2);
  return `${image.name}, ${width}x${height} pixels: ${count(image.result)} in ${seconds} s`;
}

function count({ found, shares, ranked }) {
  if (found) return plural(visible(found).length, "object");
  return shares ? plural(shares.length, "class", "classes") : nameOf(ranked[0].label);
}

function plural(number, one, many = `${one}s`) {
  return `${number} ${number === 1 ? one : many}`;
}

function showErrors() {
  const errors = [model?.error, image?.error].filter(Boolean);
  get("error").textContent = errors.join("\n");
  get("error").hidden = !errors.length;
}

function showModel() {
  const size = `${(model.size / 2 ** 20).toFixed(1)} MiB`;
  const threads = String(model.threads);
  const facts = Object.entries({ ...model.facts, Size: size, "CPU threads": threads });
  get("facts").replaceChildren(
    ...facts.flatMap(([key, value]) => [element("dt", key), element("dd", value)]),
  );
  get("about").hidden = false;
}

function showImage(isDecoded = true) {
  get("empty").hidden = isDecoded;
  get("canvas").hidden = !isDecoded;
  redraw();
}

function clearResult() {
  emphasised = null;
  if (image) image.result = null;
  get("results").replaceChildren(element("p", "Results appear here.", "note"));
  get("score-row").hidden = get("opacity-row").hidden = true;
  redraw();
}

const nameOf = (label) => model.classes[label] ?? String(label);
const visible = (found) => found.filter(({ score }) => score >= Number(get("score").value));

function showResult() {
  const { found, shares, ranked } = image.result;
  get("score-row").hidden = !found;
  get("opacity-row").hidden = !(shares || found?.some(({ mask }) => mask));
  if (found) showDetections();
  if (shares) showShares(shares);
  if (ranked) showRanked(ranked);
  redraw();
}

function showDetections() {
  const chosen = visible(image.result.found);
  const rows = chosen.slice(0, MAX_ROWS).map((detection) => [
    detection,
    detection.label,
    [detection.score.toFixed(3), detection.box.map((value) => value.toFixed(1)).join(", ")],
  ]);
  showTable(plural(chosen.length, "object"), ["class", "score", "x1, y1, x2, y2"], rows);
  const more = image.result.found.length - chosen.length;
  if (chosen.length > MAX_ROWS) note(`The list shows the surest ${MAX_ROWS}.`);
  if (more) note(`${more} more have lower scores.`);
}

function showShares(shares) {
  const rows = shares.slice(0, MAX_ROWS).map(({ label, share }) => [
    label,
    label,
    [`${(100 * share).toFixed(2)}%`],
  ]);
  showTable(plural(shares.length, "class", "classes"), ["class", "pixels"], rows);
}

function showRanked(ranked) {
  const rows = ranked.map(({ label, score }) => [null, label, [score.toFixed(3)]]);
  showTable("Surest classes", ["class", "score"], rows);
}

/** A table; what a row tells of is emphasised while the row has the pointer or the focus. */
function showTable(title, heads, rows) {
  const table = element("table");
  table.append(element("caption", title), element("thead"), element("tbody"));
  table.tHead.hidden = !rows.length;
  const head = element("tr");
  head.append(...heads.map((text) => Object.assign(element("th", text), { scope: "col" })));
  table.tHead.append(head);
  for (const [subject, label, cells] of rows) {
    const row = element("tr");
    const first = Object.assign(element("th"), { scope: "row" });
    const shown = element(subject === null ? "span" : "button");
    if (subject !== null) {
      shown.type = "button";
      shown.tabIndex = table.tBodies[0].rows.length ? -1 : 0; // arrows lead to the others
      shown.append(swatch(label));
      for (const event of ["focusin", "pointerenter"]) {
        row.addEventListener(event, () => emphasise(subject));
      }
      for (const event of ["focusout", "pointerleave"]) {
        row.addEventListener(event, () => emphasise(null));
      }
    }
    shown.append(nameOf(label));
    first.append(shown);
    row.append(first, ...cells.map((text, i) => element("td", text, i ? "box" : "")));
    table.tBodies[0].append(row);
  }
  table.addEventListener("keydown", moveFocus);
  get("results").replaceChildren(table);
}

function moveFocus(event) {
  const row = event.target.closest("tbody tr");
  const next = { ArrowDown: row?.nextSibling, ArrowUp: row?.previousSibling }[event.key];
  if (!next) return;
  event.preventDefault();
  event.target.tabIndex = -1;
  const button = next.querySelector("button");
  button.tabIndex = 0;
  button.focus();
}

function note(text) {
  get("results").append(element("p", text, "note"));
}

function element(tag, text = "", kind = "") {
  return Object.assign(document.createElement(tag), { textContent: text, className: kind });
}

function swatch(label) {
  const square = element("span", "", "swatch");
  square.style.background = `rgb(${colourOf(label, model.palette)})`;
  return square;
}

function emphasise(subject) {
  emphasised = subject;
  redraw();
}

let isDrawing = false;

/** Draws at the next frame, once however often it is called until then. */
function redraw() {
  if (isDrawing) return;
  isDrawing = true;
  requestAnimationFrame(() => {
    isDrawing = false;
    if (image?.bitmap) drawNow();
  });
}

function drawNow() {
  const { bitmap, result } = image;
  const { classes = [], palette = [] } = model ?? {};
  const found = result?.found ? visible(result.found) : [];
  const opacity = Number(get("opacity").value) / 100;
  let overlay = null;
  if (found.some(({ mask }) => mask)) {
    const shown = emphasised ? [emphasised] : found;
    overlay = maskOverlay(bitmap, shown, opacity, palette);
  } else if (result?.labels) {
    overlay = labelOverlay(bitmap, result.labels, opacity, palette, emphasised);
  }
  const place = { width: get("stage").clientWidth, height: 0.75 * window.innerHeight };
  const isBox = emphasised?.box !== undefined;
  const shown = { found, overlay, classes, palette, emphasised: isBox ? emphasised : null };
  draw(get("canvas"), place, bitmap, shown);
  get("canvas").ariaLabel = result ? `${image.name}: ${count(result)}` : image.name;
}

for (const which of ["model", "image"]) {
  get(which).addEventListener("change", ({ target }) => {
    const [file] = target.files;
    if (file && which === "model") openModel({ name: file.name, file });
    else if (file) openImage(file);
    target.value = ""; // so that the same file can be chosen again
  });
}

get("stop").addEventListener("click", () => {
  restart();
  if (working) working.state = "stopped"; // an image that waits for it goes on
});

get("score").addEventListener("input", ({ target }) => {
  get("score-value").textContent = Number(target.value).toFixed(2);
  if (!image?.result?.found) return;
  emphasised = null;
  showDetections();
  say(summary());
  redraw();
});

get("opacity").addEventListener("input", ({ target }) => {
  get("opacity-value").textContent = `${target.value}%`;
  redraw();
});

addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragging");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dragging");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  open(event.dataTransfer.files);
});
addEventListener("paste", (event) => open(event.clipboardData.files));
new ResizeObserver(redraw).observe(get("stage"));

get("not-started").hidden = true;
get("page").hidden = false;
const named = new URLSearchParams(location.search).get("model");
if (named) {
  const url = URL.canParse(named, document.baseURI) ? new URL(named, document.baseURI) : null;
  if (url?.origin === location.origin) openModel({ name: named, url: url.href });
  else {
    model = { name: named, state: "failed", error: "?model= takes a file beside this page." };
    showErrors();
    hideProgress();
  }
}
