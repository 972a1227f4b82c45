// From an image file to the pixels that a model takes.
import { UserError } from "./model_file.js";

const MAX_PIXELS = 64e6; // some browsers' canvas takes no more
const ORIENTATION = 0x112; // EXIF's tag

/**
 * Decodes an image: rotated as its EXIF tag says, its colours as they are in the file, without
 * conversion from its colour profile, both as OpenCV does.
 *
 * @param {Blob} file
 * @param {boolean} isTurned whether it is rotated.
 * @returns {Promise<ImageBitmap>}
 * @throws {UserError} it can't be decoded, or is too large, or a WebP image that EXIF turns.
 */
export async function decode(file, isTurned = true) {
  let bitmap;
  try {
    if (isTurned && isTurnedWebp(await file.arrayBuffer())) {
      throw new UserError("its EXIF tag turns it, which browsers don't do to WebP: save it as JPEG or PNG");
    }
    bitmap = await createImageBitmap(isTurned ? file : await withoutExif(file), {
      imageOrientation: "from-image",
      colorSpaceConversion: "none",
      premultiplyAlpha: "none",
    });
  } catch (error) {
    if (error instanceof UserError) throw error;
    throw new UserError("it can't be decoded as an image");
  }
  const { width, height } = bitmap;
  if (width * height > MAX_PIXELS) {
    bitmap.close();
    throw new UserError(`${width}x${height} pixels are too many: ${MAX_PIXELS / 1e6} million are the limit`);
  }
  return bitmap;
}

/** Whether a file is a WebP image that its EXIF tag turns. */
function isTurnedWebp(buffer) {
  const view = new DataView(buffer);
  const name = (at) => (at + 4 <= buffer.byteLength ? String.fromCharCode(...new Uint8Array(buffer, at, 4)) : "");
  if (name(0) !== "RIFF" || name(8) !== "WEBP") return false;
  try {
    let at = 12;
    while (name(at) && name(at) !== "EXIF") {
      const size = view.getUint32(at + 4, true);
      at += 8 + size + (size % 2);
    }
    const start = at + (name(at + 8) === "Exif" ? 14 : 8);
    const isLittle = view.getUint16(start) === 0x4949;
    const table = start + view.getUint32(start + 4, isLittle);
    for (let i = 0; i < view.getUint16(table, isLittle); i++) {
      const entry = table + 2 + 12 * i;
      if (view.getUint16(entry, isLittle) === ORIENTATION) return view.getUint16(entry + 8, isLittle) > 1;
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // no such tag before the file's end
  }
  return false;
}

/** A JPEG or PNG file whose EXIF data aren't found: browsers turn images whatever they are told. */
async function withoutExif(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const start = new TextDecoder("latin1").decode(bytes.subarray(0, 2 ** 20));
  const place = start.search(/Exif\0\0|eXIf/);
  if (place >= 0) bytes[place] = 0x78;
  return new Blob([bytes]);
}

/**
 * Whether a file is a PNG image of 16 bits a channel, of which a browser gives the upper 8.
 *
 * @param {Blob} file
 * @returns {Promise<boolean>}
 */
export async function hasMoreBits(file) {
  const header = new Uint8Array(await file.slice(0, 25).arrayBuffer());
  return String.fromCharCode(...header.subarray(1, 4)) === "PNG" && header[24] > 8;
}

/**
 * An image's pixels: (height, width, channels), RGB.
 *
 * @param {ImageBitmap} bitmap
 * @param {number} channels 1 (grey), 3 or 4.
 * @returns {Uint8Array}
 */
export function pixelsOf(bitmap, channels) {
  const { width, height } = bitmap;
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  let rgba = context.getImageData(0, 0, width, height).data;
  if (isTranslucent(rgba)) rgba = readTranslucent(bitmap) ?? rgba;
  if (channels === 4) return new Uint8Array(rgba.buffer);
  const pixels = new Uint8Array(width * height * channels);
  for (let from = 0, to = 0; from < rgba.length; from += 4) {
    if (channels === 3) {
      pixels[to++] = rgba[from];
      pixels[to++] = rgba[from + 1];
      pixels[to++] = rgba[from + 2];
    } else {
      const grey = rgba[from] * 19595 + rgba[from + 1] * 38470 + rgba[from + 2] * 7471;
      pixels[to++] = (grey + 0x8000) >> 16; // as Pillow
    }
  }
  return pixels;
}

function isTranslucent(rgba) {
  for (let i = 3; i < rgba.length; i += 4) {
    if (rgba[i] < 255) return true;
  }
  return false;
}

/** Pixels by WebGL: a 2D canvas multiplies colours by alpha, and loses them where it is 0. */
function readTranslucent(bitmap) {
  const { width, height } = bitmap;
  const gl = new OffscreenCanvas(1, 1).getContext("webgl");
  if (!gl || Math.max(width, height) > gl.getParameter(gl.MAX_TEXTURE_SIZE)) return null;
  gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  const texture = gl.getParameter(gl.TEXTURE_BINDING_2D);
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
  const rgba = new Uint8ClampedArray(width * height * 4);
  gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(rgba.buffer));
  const isRead = gl.getError() === gl.NO_ERROR;
  gl.getExtension("WEBGL_lose_context")?.loseContext(); // frees its memory
  return isRead ? rgba : null;
}
