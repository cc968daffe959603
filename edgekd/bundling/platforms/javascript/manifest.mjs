// SPDX-License-Identifier: Apache-2.0
/**
 * The manifest of a bundle, `edgekd-bundle.json`: read, and refused unless it has the form `edgekd.bundle/1`.
 *
 * @typedef {{path: string, bytes: number, sha256: string}} File
 * @typedef {{name: string, dtype: string, shape: number[], path: string}} TensorFile
 * @typedef {TensorFile & {tolerance: number}} ExpectedOutput
 * @typedef {{name: string, dtype: string, shape: (number | null)[]}} Value
 * @typedef {{colour: "RGB" | "BGR" | "gray", layout: "NCHW" | "NHWC", height: number, width: number,
 *   mean: number[], std: number[], resize: "cover-bicubic"}} Image
 * @typedef {{vocabulary: string, characters: string, unknown: number, first: number, last: number,
 *   continuation: string, longest_word: number, longest: number, ids: string, mask: string | null,
 *   types: string | null}} Text
 * @typedef {{intra_op_num_threads: number, intra_op_spinning: boolean, enable_cpu_mem_arena: boolean,
 *   graph_optimization_level: "all" | "extended" | "basic" | "none"}} Session
 * @typedef {{path: string, precision: string, format: string, made_for: string | null, right_on: string[],
 *   session: Session}} Variant
 * @typedef {{model: string, expected: {target: string, device: string, outputs: ExpectedOutput[]}}} Choice
 * @typedef {{schema: string, name: string, edgekd: string, files: File[],
 *   runtime: {onnxruntime: {least: string, tested: string}}, inputs: Value[], outputs: Value[],
 *   image: Image | null, text: Text | null, labels: string[], variants: Variant[], targets: Record<string, Choice>,
 *   golden: {runs: number, source: string, inputs: TensorFile[]},
 *   preparation: {images: {pixels: TensorFile, sha256: string}[], texts: {text: string, ids: number[]}[]}}} Manifest
 */

import { itemBytes } from "./tensors.mjs";

export const MANIFEST = "edgekd-bundle.json";
const SCHEMA = "edgekd.bundle/1";

/** A bundle that is damaged, changed, or not meant for this place. */
export class BundleError extends Error {
  name = "BundleError";
}

const isText = (value) => typeof value === "string";
const isFlag = (value) => typeof value === "boolean";
const isNumber = (value) => Number.isFinite(value);
const isCount = (value) => Number.isSafeInteger(value) && value >= 0;
const isExtent = (value) => Number.isSafeInteger(value) && value >= 1;
const isTolerance = (value) => isNumber(value) && value >= 0;
const isVersion = (value) => isText(value) && /^\d+(\.\d+)*/.test(value);
const isHash = (value) => isText(value) && /^[0-9a-f]{64}$/.test(value);
const isDtype = (value) => isText(value) && itemBytes(value) !== undefined;
const oneOf = (...words) => (value) => words.includes(value);
const orNull = (kind) => ({ orNull: kind });
const eachOf = (kind) => ({ eachOf: kind });
const PATH = Symbol("path");

const TENSOR = { name: isText, dtype: isDtype, shape: [isCount], path: PATH };
const VALUE = { name: isText, dtype: isText, shape: [orNull(isCount)] };
const SESSION = {
  intra_op_num_threads: isCount,
  intra_op_spinning: isFlag,
  enable_cpu_mem_arena: isFlag,
  graph_optimization_level: oneOf("all", "extended", "basic", "none"),
};
const IMAGE = {
  colour: oneOf("RGB", "BGR", "gray"),
  layout: oneOf("NCHW", "NHWC"),
  height: isExtent,
  width: isExtent,
  mean: [isNumber],
  std: [isNumber],
  resize: oneOf("cover-bicubic"),
};
const TEXT = {
  vocabulary: PATH,
  characters: PATH,
  unknown: isCount,
  first: isCount,
  last: isCount,
  continuation: isText,
  longest_word: isCount,
  longest: (value) => isCount(value) && value >= 2,
  ids: isText,
  mask: orNull(isText),
  types: orNull(isText),
};
const FORM = {
  name: isText,
  edgekd: isText,
  files: [{ path: PATH, bytes: isCount, sha256: isHash }],
  runtime: { onnxruntime: { least: isVersion, tested: isVersion } },
  inputs: [VALUE],
  outputs: [VALUE],
  image: orNull(IMAGE),
  text: orNull(TEXT),
  labels: [isText],
  variants: [
    {
      path: PATH,
      precision: oneOf("int8", "fp16", "fp32"),
      format: oneOf("onnx", "ort"),
      made_for: orNull(isText),
      right_on: [isText],
      session: SESSION,
    },
  ],
  targets: eachOf({
    model: PATH,
    expected: { target: isText, device: isText, outputs: [{ ...TENSOR, tolerance: isTolerance }] },
  }),
  golden: { runs: isExtent, source: oneOf("data", "synthetic"), inputs: [TENSOR] },
  preparation: { images: [{ pixels: TENSOR, sha256: isHash }], texts: [{ text: isText, ids: [isCount] }] },
};

/**
 * @param {Uint8Array} bytes Of the manifest.
 * @returns {Manifest}
 * @throws {BundleError}
 */
export function parseManifest(bytes) {
  let data;
  try {
    data = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (error) {
    throw new BundleError(`${MANIFEST}: cannot be read: ${error.message}`);
  }
  const schema = data?.schema ?? "none";
  if (schema !== SCHEMA) {
    const found = isText(schema) ? schema : JSON.stringify(schema);
    throw new BundleError(`${MANIFEST}: its schema is ${found}; this package reads ${SCHEMA}: update the package`);
  }
  require(data, FORM, "");
  requireReferences(data);
  return data;
}

/** Refuse a value that is not of a kind: a predicate, an object of kinds, a list of one kind, or a path. */
function require(value, kind, where) {
  if (kind === PATH) {
    requirePath(value, where);
  } else if (typeof kind === "function") {
    if (!kind(value)) throw misfit(where);
  } else if (kind.orNull) {
    if (value !== null) require(value, kind.orNull, where);
  } else if (Array.isArray(kind)) {
    if (!Array.isArray(value)) throw misfit(where);
    value.forEach((item, index) => require(item, kind[0], `${where}.${index}`));
  } else {
    if (typeof value !== "object" || value === null || Array.isArray(value)) throw misfit(where);
    for (const key of Object.keys(kind.eachOf ? value : kind)) {
      const inner = where ? `${where}.${key}` : key;
      if (!Object.hasOwn(value, key)) throw misfit(inner);
      require(value[key], kind.eachOf ?? kind[key], inner);
    }
  }
}

function requirePath(value, where) {
  if (!isText(value)) throw misfit(where);
  if (!value.split("/").every((name) => /^[A-Za-z0-9_][A-Za-z0-9_.-]*$/.test(name))) throw leaves(value);
}

/** Refuse what needs a file, model or input that the manifest does not list. */
function requireReferences(manifest) {
  const files = new Map(manifest.files.map((file) => [file.path, file]));
  const variants = new Set(manifest.variants.map((variant) => variant.path));
  const requireTensor = (tensor, where) => {
    const bytes = tensor.shape.reduce((product, extent) => product * extent, itemBytes(tensor.dtype));
    if (!files.has(tensor.path)) throw misfit(`${where}.path`);
    if (files.get(tensor.path).bytes !== bytes) throw misfit(`${where}.shape`);
  };
  const requireRuns = (tensor, where) => {
    requireTensor(tensor, where);
    if (tensor.shape[0] !== manifest.golden.runs) throw misfit(`${where}.shape`);
  };
  manifest.variants.forEach((variant, index) => {
    if (!files.has(variant.path)) throw misfit(`variants.${index}.path`);
  });
  manifest.golden.inputs.forEach((tensor, index) => requireRuns(tensor, `golden.inputs.${index}`));
  manifest.preparation.images.forEach((vector, index) => {
    const where = `preparation.images.${index}.pixels`;
    requireTensor(vector.pixels, where);
    if (vector.pixels.dtype !== "uint8" || vector.pixels.shape.length !== 3) throw misfit(`${where}.shape`);
  });
  for (const [target, choice] of Object.entries(manifest.targets)) {
    if (!variants.has(choice.model)) throw misfit(`targets.${target}.model`);
    choice.expected.outputs.forEach((tensor, index) =>
      requireRuns(tensor, `targets.${target}.expected.outputs.${index}`),
    );
  }
  const image = manifest.image;
  if (image) {
    const channels = image.colour === "gray" ? 1 : 3;
    if (image.mean.length !== channels) throw misfit("image.mean");
    if (image.std.length !== channels || image.std.some((value) => value <= 0)) throw misfit("image.std");
    if (manifest.inputs.length === 0) throw misfit("inputs");
  } else if (manifest.preparation.images.length) {
    throw misfit("image");
  }
  const { text } = manifest;
  if (text) {
    for (const key of ["vocabulary", "characters"]) if (!files.has(text[key])) throw misfit(`text.${key}`);
  } else if (manifest.preparation.texts.length) {
    throw misfit("text");
  }
}

const misfit = (where) => new BundleError(`${MANIFEST}: ${where} is not as ${SCHEMA} has it`);

/** @param {string} path */
export const leaves = (path) => new BundleError(`${path}: a path that leaves the bundle`);

/** @param {string} path */
export const missing = (path) => new BundleError(`${path}: missing`);

/**
 * Refuse an onnxruntime that is older than the models need.
 *
 * @param {string} found
 * @param {string} least
 */
export function requireVersion(found, least) {
  const numbers = (version) => version.split(/[.+-]/).slice(0, 3).map((part) => Number.parseInt(part, 10) || 0);
  const [have, need] = [numbers(found), numbers(least)];
  const differs = [0, 1, 2].find((index) => (have[index] ?? 0) !== (need[index] ?? 0));
  if (differs !== undefined && (have[differs] ?? 0) < (need[differs] ?? 0)) {
    throw new BundleError(`onnxruntime ${found} is too old for these models, which need ${least}`);
  }
}

/**
 * Refuse a file of another length.
 *
 * @param {File} file
 * @param {number} bytes That there are.
 */
export function requireLength(file, bytes) {
  if (bytes !== file.bytes) {
    throw new BundleError(`${file.path}: ${bytes} bytes, expected ${file.bytes}: truncated or changed`);
  }
}

/**
 * Refuse a file of another content.
 *
 * @param {File} file
 * @param {string} hash Its sha256, in hex.
 */
export function requireHash(file, hash) {
  if (hash !== file.sha256) {
    throw new BundleError(`${file.path}: its sha256 is not that of the manifest: damaged or changed`);
  }
}
