// Draws an image and what a model found in it.

const MAX_ENLARGED = 3; // times the image's size
const FONT = "600 13px system-ui, sans-serif";
const LABEL_HEIGHT = 18; // CSS pixels, as all of boxes and labels

/** The colour of a class: the palette's, or one derived from the label. */
export function colourOf(label, palette) {
  if (palette[label]) return palette[label];
  const hue = (label * 137.508) % 360; // golden angle: neighbours differ
  return [0, 8, 4].map((n) => {
    const k = (n + hue / 30) % 12;
    return Math.round(255 * (0.5 - 0.4 * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  });
}

/**
 * Fits a canvas to its place and draws.
 *
 * @param {HTMLCanvasElement} canvas
 * @param {{width: number, height: number}} place in CSS pixels.
 * @param {ImageBitmap} image
 * @param {{found: object[], overlay: OffscreenCanvas|null, emphasised: object|null,
 *   classes: string[], palette: number[][]}} drawn detections by falling score, and colours over
 *   the image, as large as it.
 */
export function draw(canvas, place, image, { found, overlay, emphasised, classes, palette }) {
  const scale = Math.min(place.width / image.width, place.height / image.height, MAX_ENLARGED);
  const [width, height] = [image.width, image.height].map((side) => Math.max(1, Math.round(side * scale)));
  const dense = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * dense);
  canvas.height = Math.round(height * dense);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.scale(dense, dense);
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, width, height);
  if (overlay) {
    context.imageSmoothingEnabled = scale * dense < 1; // enlarged, pixels keep their edges
    context.drawImage(overlay, 0, 0, width, height);
  }
  const ordered = found.toReversed(); // the surest lie on top
  if (emphasised) ordered.push(emphasised);
  for (const { box, label, score } of ordered) {
    const isFaint = emphasised && emphasised.box !== box;
    context.globalAlpha = isFaint ? 0.25 : 1;
    const [x1, y1, x2, y2] = box.map((value) => value * scale);
    const colour = colourOf(label, palette);
    context.strokeStyle = `rgb(${colour})`;
    context.lineWidth = emphasised?.box === box ? 4 : 2;
    context.strokeRect(x1, y1, x2 - x1, y2 - y1);
    if (isFaint) continue;
    context.font = FONT;
    const text = caption(context, classes[label] ?? `${label}`, score.toFixed(2), width - 8);
    const room = context.measureText(text).width + 8;
    const left = Math.max(0, Math.min(x1 - 1, width - room));
    const top = y1 >= LABEL_HEIGHT ? y1 - LABEL_HEIGHT : Math.max(0, y1);
    context.fillStyle = `rgb(${colour})`;
    context.fillRect(left, top, room, LABEL_HEIGHT);
    const [red, green, blue] = colour;
    context.fillStyle = red * 0.299 + green * 0.587 + blue * 0.114 > 140 ? "#000" : "#fff";
    context.textBaseline = "middle";
    context.fillText(text, left + 4, top + LABEL_HEIGHT / 2 + 1);
  }
}

/** A class's name and a score in so many pixels: a name that is too long is cut, not the score. */
function caption(context, name, score, room) {
  const letters = [...name];
  let text = `${name} ${score}`;
  while (letters.length && context.measureText(text).width > room) {
    letters.pop();
    text = letters.length ? `${letters.join("")}… ${score}` : score;
  }
  return text;
}

/** Masks as colours over an image; of overlapping ones the surest is seen. */
export function maskOverlay({ width, height }, found, opacity, palette) {
  const pixels = new ImageData(width, height);
  const colours = new Uint32Array(pixels.data.buffer);
  for (const { mask, label } of found.toReversed()) {
    if (!mask) continue;
    const colour = packed(colourOf(label, palette), opacity);
    for (let y = 0, from = 0; y < mask.height; y++) {
      const start = (mask.top + y) * width + mask.left;
      for (let x = 0; x < mask.width; x++, from++) {
        if (mask.bits[from]) colours[start + x] = colour;
      }
    }
  }
  return canvasOf(pixels);
}

/** A label map as colours over an image; of a class that is emphasised, that alone. */
export function labelOverlay({ width, height }, labels, opacity, palette, emphasised) {
  const pixels = new ImageData(width, height);
  const colours = new Uint32Array(pixels.data.buffer);
  const table = new Map();
  for (let i = 0; i < labels.length; i++) {
    const label = labels[i];
    if (emphasised !== null && label !== emphasised) continue;
    let colour = table.get(label);
    if (colour === undefined) {
      colour = packed(colourOf(label, palette), opacity);
      table.set(label, colour);
    }
    colours[i] = colour;
  }
  return canvasOf(pixels);
}

/** Red, green, blue and alpha as they lie in memory. */
function packed(colour, opacity) {
  return new Uint32Array(new Uint8Array([...colour, Math.round(opacity * 255)]).buffer)[0];
}

function canvasOf(pixels) {
  const canvas = new OffscreenCanvas(pixels.width, pixels.height);
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}
