// SPDX-License-Identifier: Apache-2.0
/**
 * Opens a bundle in a browser.
 *
 *     import { openBundle } from "./edgekd-bundle.mjs";
 *     const model = await openBundle("../");
 *     const best = await model.classify(await pixelsOf(file));
 */

import * as ort from "onnxruntime-web/wasm";

import { Bundle } from "./bundle.mjs";
import { BundleError, MANIFEST, missing, requireHash, requireLength } from "./manifest.mjs";
import { SIGNATURE } from "./signature.mjs";

const MOST_THREADS = 4; // more gain little, and each takes memory

export const { Tensor } = ort;
export { BundleError };
export { pixelsOf } from "./pixels.mjs";

/**
 * Open the model of a bundle that is right in a browser. Nothing is opened that is not as the manifest has it.
 *
 * @param {string | URL} folder Where `edgekd-bundle.json` is, relative to the page.
 * @param {import("./bundle.mjs").Options} options
 * @returns {Promise<import("./bundle.mjs").Model>}
 * @throws {BundleError}
 */
export async function openBundle(folder, options = {}) {
  const bundle = await Bundle.read(hostOf(folder), options);
  return bundle.open();
}

/** @returns {number} How many threads a model runs on; known once one is open. */
export const threads = () => ort.env.wasm.numThreads;

/**
 * @param {string | URL} folder
 * @returns {import("./bundle.mjs").Host}
 */
export function hostOf(folder) {
  const root = new URL(folder, document.baseURI);
  if (!root.pathname.endsWith("/")) root.pathname += "/";
  const load = async (file) => {
    const answer = await fetched(new URL(file.path, root), file.path);
    if (answer.status === 404) throw missing(file.path);
    const bytes = await bytesOf(answer, file.path);
    requireLength(file, bytes.length);
    requireHash(file, await sha256(bytes));
    return bytes;
  };
  return {
    version: ort.env.versions.web,
    target: "wasm",
    Tensor,
    sha256,
    subtle: globalThis.crypto?.subtle,
    signature: async () => {
      const answer = await fetched(new URL(SIGNATURE, root), SIGNATURE);
      return answer.status === 404 ? null : bytesOf(answer, SIGNATURE);
    },
    manifest: async () => bytesOf(await fetched(new URL(MANIFEST, root), MANIFEST), MANIFEST),
    check: async (file) => void (await load(file)),
    load,
    open: async (file, session) => {
      const bytes = await load(file);
      ort.env.wasm.numThreads ??= threadsFor(session);
      return ort.InferenceSession.create(bytes, options(session));
    },
  };
}

async function sha256(bytes) {
  if (!globalThis.isSecureContext) throw new BundleError("files can only be checked on a page from https or localhost");
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function fetched(url, name) {
  try {
    return await fetch(url, { cache: "no-cache", redirect: "error" });
  } catch (error) {
    throw new BundleError(`${name}: cannot be read: ${error.message}`);
  }
}

async function bytesOf(answer, name) {
  if (!answer.ok) throw new BundleError(`${name}: cannot be read: status ${answer.status}`);
  return new Uint8Array(await answer.arrayBuffer());
}

/** Threads need shared memory, and that an isolated page: one served with COOP and COEP. */
function threadsFor(session) {
  if (!globalThis.crossOriginIsolated) return 1;
  return session.intra_op_num_threads || Math.min(MOST_THREADS, navigator.hardwareConcurrency || 1);
}

/** @param {import("./manifest.mjs").Session} session */
function options(session) {
  const level = session.graph_optimization_level;
  return { executionProviders: ["wasm"], graphOptimizationLevel: level === "none" ? "disabled" : level };
}
