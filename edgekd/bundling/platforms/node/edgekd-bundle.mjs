// SPDX-License-Identifier: Apache-2.0
/**
 * Opens a bundle in Node.js.
 *
 *     import { openBundle } from "./edgekd-bundle.mjs";
 *     const model = await openBundle("../");
 *     const best = await model.classify({ data, width, height });
 */

import { createHash, webcrypto } from "node:crypto";
import { createReadStream } from "node:fs";
import { readFile, realpath, stat } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";

import { Bundle } from "./bundle.mjs";
import { cpuTarget } from "./cpu.mjs";
import { BundleError, MANIFEST, leaves, missing, requireHash, requireLength } from "./manifest.mjs";
import { SIGNATURE } from "./signature.mjs";

process.env.ORT_DISABLE_TELEMETRY ??= "1"; // only what is set before onnxruntime is loaded counts
const { default: ort } = await import("onnxruntime-node");

export const { Tensor } = ort;
export { BundleError };

/**
 * Open the model of a bundle that is right on this CPU. Nothing is opened that is not as the manifest has it.
 *
 * @param {string | URL} folder The one with `edgekd-bundle.json`; relative to the working folder, or a `file:` URL.
 * @param {import("./bundle.mjs").Options} options
 * @returns {Promise<import("./bundle.mjs").Model>}
 * @throws {BundleError}
 */
export async function openBundle(folder, options = {}) {
  const bundle = await Bundle.read(hostOf(folder), options);
  return bundle.open();
}

/**
 * @param {string | URL} folder
 * @returns {import("./bundle.mjs").Host}
 */
export function hostOf(folder) {
  const root = folder instanceof URL ? fileURLToPath(folder) : folder;
  return {
    version: ort.env.versions.node,
    target: cpuTarget(),
    Tensor,
    sha256: async (bytes) => sha256(bytes),
    subtle: webcrypto.subtle,
    signature: () => readFile(path.join(root, SIGNATURE)).catch(() => null),
    manifest: async () => {
      try {
        return await readFile(path.join(root, MANIFEST));
      } catch (error) {
        throw new BundleError(`${MANIFEST}: cannot be read: ${error.message}`);
      }
    },
    check: async (file) => void (await checked(root, file)),
    load: async (file) => {
      const bytes = await readFile(await inside(root, file.path));
      requireLength(file, bytes.length);
      requireHash(file, sha256(bytes));
      return bytes;
    },
    open: async (file, session) => ort.InferenceSession.create(await checked(root, file), options(session)),
  };
}

const sha256 = (bytes) => createHash("sha256").update(bytes).digest("hex");

/** Give the real path of a file, after it was read once, in pieces, and found whole. */
async function checked(root, file) {
  const place = await inside(root, file.path);
  requireLength(file, (await stat(place)).size);
  const hash = createHash("sha256");
  for await (const piece of createReadStream(place)) hash.update(piece);
  requireHash(file, hash.digest("hex"));
  return place;
}

/** Give the real path of a file; links may not lead out of the bundle. */
async function inside(root, name) {
  let place;
  try {
    place = await realpath(path.join(root, name));
  } catch (error) {
    throw error.code === "ENOENT" || error.code === "ENOTDIR" ? missing(name) : error;
  }
  const relative = path.relative(await realpath(root), place);
  if (relative === ".." || relative.startsWith(`..${path.sep}`) || path.isAbsolute(relative)) throw leaves(name);
  if (!(await stat(place)).isFile()) throw missing(name);
  return place;
}

/** @param {import("./manifest.mjs").Session} session */
function options(session) {
  const level = session.graph_optimization_level;
  return {
    executionProviders: ["cpu"],
    intraOpNumThreads: session.intra_op_num_threads,
    enableCpuMemArena: session.enable_cpu_mem_arena,
    graphOptimizationLevel: level === "none" ? "disabled" : level,
    extra: { session: { intra_op: { allow_spinning: session.intra_op_spinning ? "1" : "0" } } },
  };
}
