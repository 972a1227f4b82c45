// Runs models apart from the page, which stays responsive.
import { decode, hasMoreBits, pixelsOf } from "./image.js";
import { UserError, describeModel } from "./model_file.js";

const MAX_FILE = 2 ** 31; // bytes: protobuf takes no larger message
const MAX_DETECTIONS = 10_000;
const WASM = new URL("ort/ort-wasm-simd-threaded", import.meta.url).href;

let runtime = null; // onnxruntime-web
let model = null;
let bitmap = null;
let isDeep = false; // whether the image's file has more than 8 bits a channel

const JOBS = { load, decode: decodeImage, run };

self.onmessage = async ({ data: { id, job, args } }) => {
  try {
    const [value, transferred] = await JOBS[job](args);
    self.postMessage({ id, value }, transferred ?? []);
  } catch (error) {
    const isExpected = error instanceof UserError;
    const text = isExpected ? error.message : `${error?.message ?? error}`.split("\n")[0];
    self.postMessage({ id, error: text.slice(0, 300), isExpected });
  }
};

function report(text, part = null) {
  self.postMessage({ text, part });
}

/** Loads a model from a file, or from a URL beside the page. */
async function load({ file, url }) {
  report("Reading the model", 0);
  const bytes = await readModel(file, url);
  const described = describeModel(bytes);
  const session = await createSession(bytes);
  const [input, ...more] = session.inputMetadata;
  const isImage = input?.name === "image" && input.type === "uint8" && input.shape.length === 3;
  const hasOutputs = [...session.outputNames].sort().join() === [...described.outputs].sort().join();
  if (more.length || !isImage || !hasOutputs) {
    throw new UserError("it is another kind of model: take one that mmpvt export wrote");
  }
  const channels = input.shape[2];
  if (![1, 3, 4].includes(channels)) {
    throw new UserError(`it takes images of ${channels} channels, and browsers decode 1, 3 or 4`);
  }
  model = { ...described, session, channels };
  const threads = runtime.env.wasm.numThreads;
  return [{ ...described, size: bytes.length, threads }];
}

async function createSession(bytes) {
  report("Starting onnxruntime");
  await startRuntime();
  report("Preparing the model");
  try {
    const options = { executionProviders: ["wasm"], logSeverityLevel: 4 };
    return await runtime.InferenceSession.create(bytes, options);
  } catch (error) {
    const reason = `${error?.message ?? error}`.split("\n")[0].slice(0, 200);
    throw new UserError(
      isOutOfMemory(error) ? "there isn't enough memory for it" : `onnxruntime-web can't load it: ${reason}`,
    );
  }
}

/** C++ exceptions come as numbers: those without a text are of allocations. */
function isOutOfMemory(error) {
  return typeof error === "number" || /alloc|memory|unreachable/i.test(error?.message);
}

async function readModel(file, url) {
  let [stream, size] = [file?.stream(), file?.size];
  if (url) {
    const response = await fetch(url).catch(() => null);
    if (!response?.ok) throw new UserError("the server has no such file");
    [stream, size] = [response.body, Number(response.headers.get("Content-Length"))];
  }
  if (size > MAX_FILE) throw new UserError("it is larger than an ONNX file can be, 2 GiB");
  const chunks = [];
  let length = 0;
  try {
    const reader = stream.getReader();
    for (let read = await reader.read(); !read.done; read = await reader.read()) {
      chunks.push(read.value);
      length += read.value.length;
      if (length > MAX_FILE) throw new UserError("it is larger than an ONNX file can be, 2 GiB");
      if (size) report("Reading the model", length / size);
    }
  } catch (error) {
    if (error instanceof UserError) throw error;
    throw new UserError("it can't be read"); // a folder, say, or a file that was removed
  }
  const bytes = new Uint8Array(length);
  let at = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, at);
    at += chunk.length;
  }
  return bytes;
}

async function startRuntime() {
  try {
    runtime = await import("./ort/ort.wasm.min.js");
  } catch {
    throw new UserError("onnxruntime-web isn't in the page's folder: run npm ci && npm run build");
  }
  runtime.env.logLevel = "fatal";
  runtime.env.wasm.wasmPaths = { mjs: `${WASM}.js`, wasm: `${WASM}.wasm` };
  // threads share memory, which browsers allow to isolated pages only
  runtime.env.wasm.numThreads = self.crossOriginIsolated ? navigator.hardwareConcurrency : 1;
}

/** Decodes an image and keeps it for run; the page gets a copy. */
async function decodeImage({ file }) {
  bitmap?.close();
  bitmap = null;
  bitmap = await decode(file, model?.isTurned);
  isDeep = await hasMoreBits(file);
  const copy = await createImageBitmap(bitmap);
  return [copy, [copy]];
}

/** The loaded model's results on the decoded image. */
async function run() {
  const { width, height } = bitmap;
  if (model.takesBytes && isDeep) {
    throw new UserError("it has more than 8 bits a channel, and the model takes bytes");
  }
  report("Running the model");
  const started = performance.now();
  let outputs;
  try {
    const pixels = pixelsOf(bitmap, model.channels);
    const image = new runtime.Tensor("uint8", pixels, [height, width, model.channels]);
    outputs = await model.session.run({ image });
  } catch (error) {
    throw new UserError(failure(error, `${width}x${height} pixels`));
  }
  const seconds = (performance.now() - started) / 1000;
  const [result, transferred] = RESULTS[model.task](outputs, width, height);
  for (const output of Object.values(outputs)) output.dispose();
  return [{ ...result, seconds }, transferred];
}

function failure(error, size) {
  if (isOutOfMemory(error)) return `there isn't enough memory for ${size}: take a smaller image or --shape`;
  // sizes have 32 bits here; the first that has more is the operation count of MultiHeadAttention
  if (/integer overflow/i.test(error?.message)) {
    return "the model works at too high a resolution for a browser: export it with --runtime any, or a smaller --shape";
  }
  return `the model can't take an image of ${size}`;
}

const RESULTS = {
  "detection": detections,
  "instance segmentation": detections,
  "semantic segmentation": labelMap,
  "classification": classScores,
};

function detections(outputs, width, height) {
  const number = outputs.scores.dims[0];
  if (number > MAX_DETECTIONS) {
    throw new UserError(`the model gives ${number} detections, and ${MAX_DETECTIONS} are the limit`);
  }
  const boxes = checked(outputs, "boxes", ["float32"], [number, 4]);
  const scores = checked(outputs, "scores", ["float32"], [number]);
  const labels = checked(outputs, "labels", ["int64", "int32"], [number]);
  const masks = outputs.masks && checked(outputs, "masks", ["bool"], [number, height, width]);
  if (!boxes.every(Number.isFinite) || !scores.every(Number.isFinite)) {
    throw new UserError("the model gives boxes or scores of NaN or Inf");
  }
  const found = Array.from(scores, (score, i) => ({
    box: Array.from(boxes.subarray(4 * i, 4 * i + 4)),
    score,
    label: checkedLabel(labels[i]),
    mask: masks ? cropped(masks.subarray(i * height * width, (i + 1) * height * width), width) : null,
  }));
  return [{ found }, found.flatMap(({ mask }) => (mask ? [mask.bits.buffer] : []))];
}

/** A mask's part that isn't empty: its place and size in pixels, and its bits. */
function cropped(mask, width) {
  let [left, right, top, bottom] = [width, 0, -1, 0];
  for (let y = 0; y * width < mask.length; y++) {
    const row = mask.subarray(y * width, (y + 1) * width);
    const first = row.indexOf(1);
    if (first < 0) continue;
    left = Math.min(left, first);
    right = Math.max(right, row.lastIndexOf(1) + 1);
    if (top < 0) top = y;
    bottom = y + 1;
  }
  if (top < 0) return null;
  const size = right - left;
  const bits = new Uint8Array(size * (bottom - top));
  for (let y = top; y < bottom; y++) {
    bits.set(mask.subarray(y * width + left, y * width + right), (y - top) * size);
  }
  return { left, top, width: size, height: bottom - top, bits };
}

function labelMap(outputs, width, height) {
  const given = checked(outputs, "label_map", ["uint8", "int64"], [height, width]);
  const counts = new Map();
  const labels = new Uint16Array(given.length);
  for (let i = 0; i < given.length; i++) {
    labels[i] = Number(given[i]);
    counts.set(given[i], (counts.get(given[i]) ?? 0) + 1);
  }
  const shares = Array.from(counts, ([label, count]) => ({
    label: checkedLabel(label),
    share: count / labels.length,
  }));
  shares.sort((a, b) => b.share - a.share);
  return [{ labels, shares }, [labels.buffer]];
}

function classScores(outputs) {
  const number = model.classes.length || outputs.scores.dims[0];
  const scores = checked(outputs, "scores", ["float32"], [number]);
  if (!number || !scores.every(Number.isFinite)) {
    throw new UserError("the model gives no scores, or some of NaN or Inf");
  }
  const ranked = Array.from(scores, (score, label) => ({ score, label }));
  return [{ ranked: ranked.sort((a, b) => b.score - a.score).slice(0, 5) }];
}

function checked(outputs, name, types, shape) {
  const { type, dims, data } = outputs[name];
  if (!types.includes(type) || dims.join() !== shape.join()) {
    throw new UserError(`the model's output ${name} is ${type} of ${dims.join("x") || "no"} values`);
  }
  return data;
}

function checkedLabel(value) {
  const label = Number(value);
  const limit = model.classes.length || 1 << 16;
  if (label < 0 || label >= limit) {
    throw new UserError(`the model gives label ${label}, and it has ${limit} classes`);
  }
  return label;
}
