// Copies onnxruntime-web's files into ort/, where the page finds them. Its .mjs become .js: some
// servers give .mjs a type that browsers refuse.
import { copyFileSync, mkdirSync, rmSync } from "node:fs";

const FILES = {
  "dist/ort.wasm.min.mjs": "ort.wasm.min.js",
  "dist/ort-wasm-simd-threaded.mjs": "ort-wasm-simd-threaded.js",
  "dist/ort-wasm-simd-threaded.wasm": "ort-wasm-simd-threaded.wasm",
};

const source = new URL("node_modules/onnxruntime-web/", import.meta.url);
const target = new URL("ort/", import.meta.url);
rmSync(target, { recursive: true, force: true });
mkdirSync(target);
for (const [from, to] of Object.entries(FILES)) {
  copyFileSync(new URL(from, source), new URL(to, target));
}
