// What a file of mmpvt's export says of itself: its metadata_props. onnxruntime-web doesn't give
// them, so they are read from the protobuf here. The file is untrusted.

/** A mistake of the user's: its message is one sentence. */
export class UserError extends Error {}

const METADATA_PROPS = 14; // field of ModelProto; an entry's key is field 1, its value field 2
const MAX_ENTRIES = 1000;
const MAX_METADATA = 16 << 20; // bytes
const MAX_CLASSES = 1 << 16;
const MAX_NAME = 60; // characters of a class's name
const OUTPUTS = {
  "detection": ["boxes", "scores", "labels"],
  "instance segmentation": ["boxes", "scores", "labels", "masks"],
  "semantic segmentation": ["label_map"],
  "classification": ["scores"],
};

class Malformed extends Error {}

/** Goes through the fields of a protobuf message; never reads beyond its end. */
class Fields {
  constructor(bytes) {
    this.bytes = bytes;
    this.at = 0;
  }

  /** The next field: its number, and its bytes where it has a length; null at the end. */
  next() {
    if (this.at === this.bytes.length) return null;
    const tag = this.varint();
    const field = { number: Math.floor(tag / 8), bytes: null };
    const wireType = tag % 8;
    if (wireType === 0) this.varint();
    else if (wireType === 1) this.take(8);
    else if (wireType === 2) field.bytes = this.take(this.varint());
    else if (wireType === 5) this.take(4);
    else throw new Malformed();
    if (field.number === 0) throw new Malformed();
    return field;
  }

  varint() {
    let value = 0; // beyond 2^53 it isn't exact, and longer than any file
    let scale = 1;
    for (let i = 0; i < 10; i++) {
      if (this.at === this.bytes.length) throw new Malformed();
      const byte = this.bytes[this.at++];
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) return value;
      scale *= 0x80;
    }
    throw new Malformed();
  }

  take(length) {
    if (length > this.bytes.length - this.at) throw new Malformed();
    this.at += length;
    return this.bytes.subarray(this.at - length, this.at); // a view: nothing is copied
  }
}

/**
 * The metadata_props of an ONNX file. The graph, with its weights, is skipped.
 *
 * @param {Uint8Array} bytes the file.
 * @returns {Map<string, string>}
 * @throws {UserError} it is no ONNX file.
 */
export function readMetadata(bytes) {
  const metadata = new Map();
  const text = new TextDecoder("utf-8", { fatal: true });
  let size = 0;
  try {
    const fields = new Fields(bytes);
    for (let field = fields.next(); field; field = fields.next()) {
      if (field.number !== METADATA_PROPS) continue;
      if (!field.bytes) throw new Malformed();
      size += field.bytes.length;
      if (size > MAX_METADATA || metadata.size >= MAX_ENTRIES) {
        throw new UserError("its metadata are too large");
      }
      const entry = ["", ""];
      const parts = new Fields(field.bytes);
      for (let part = parts.next(); part; part = parts.next()) {
        if (part.bytes && part.number <= 2) entry[part.number - 1] = text.decode(part.bytes);
      }
      metadata.set(...entry);
    }
  } catch (error) {
    if (error instanceof UserError) throw error;
    throw new UserError("it is no ONNX file, or a damaged one"); // Malformed, or text of no UTF-8
  }
  return metadata;
}

/**
 * What an exported file holds.
 *
 * @param {Uint8Array} bytes the file.
 * @returns {{task: string, outputs: string[], classes: string[], palette: number[][],
 *   takesBytes: boolean, isTurned: boolean, facts: Object<string, string>}} takesBytes: images of
 *   more than 8 bits a channel are refused, as the model was trained on all of them; isTurned:
 *   images are rotated as their EXIF tags say.
 * @throws {UserError} it isn't a file of mmpvt's export, or one that this page doesn't run.
 */
export function describeModel(bytes) {
  const metadata = readMetadata(bytes);
  const task = metadata.get("task");
  if (!Object.hasOwn(OUTPUTS, task ?? "")) {
    throw new UserError("it is another kind of model: take one that mmpvt export wrote");
  }
  if (metadata.get("form") === "batch" || metadata.has("nms")) {
    throw new UserError(
      "it takes batches of prepared images: export it without --batch and --without-nms",
    );
  }
  const classes = listOf(metadata, "classes", (name) => typeof name === "string");
  const palette = listOf(metadata, "palette", isColour);
  if (classes.length > MAX_CLASSES) throw new UserError(`it has more than ${MAX_CLASSES} classes`);
  const fact = (key) => shown(metadata.get(key) ?? "");
  return {
    task,
    outputs: OUTPUTS[task],
    classes: classes.map(shown),
    palette,
    // Pillow clips grey of 16 bits to 255
    takesBytes: metadata.has("bits") || metadata.get("decoder") === "pillow",
    isTurned: metadata.get("orientation") !== "ignored",
    facts: {
      Task: task,
      Model: `${fact("model")} on ${fact("backbone")}`,
      Classes: String(classes.length),
      Precision: fact("precision"),
    },
  };
}

function listOf(metadata, key, isValid) {
  let list;
  try {
    list = JSON.parse(metadata.get(key));
  } catch {
    list = null;
  }
  if (!Array.isArray(list) || !list.every(isValid)) {
    throw new UserError(`it is damaged: its metadata have no list of ${key}`);
  }
  return list;
}

function isColour(value) {
  const isByte = (part) => Number.isInteger(part) && part >= 0 && part < 256;
  return Array.isArray(value) && value.length === 3 && value.every(isByte);
}

/** Text without what could turn or hide the text around it, and not endless. */
function shown(text) {
  const printable = text.replace(/\p{C}/gu, "\ufffd");
  return printable.length > MAX_NAME ? `${printable.slice(0, MAX_NAME - 1)}…` : printable;
}
