// SPDX-License-Identifier: Apache-2.0
/**
 * A bundle and the model in it that is right on this CPU. What differs between platforms is a `Host`.
 *
 * @typedef {import("./manifest.mjs").File} File
 * @typedef {import("./manifest.mjs").Manifest} Manifest
 * @typedef {object} Host
 * @property {string} version Of onnxruntime.
 * @property {string} target What this CPU is.
 * @property {new (dtype: string, data: any, shape: readonly number[]) => any} Tensor Of onnxruntime.
 * @property {(bytes: Uint8Array) => Promise<string>} sha256 In hex.
 * @property {SubtleCrypto | undefined} subtle Of WebCrypto; undefined where there is none.
 * @property {() => Promise<Uint8Array>} manifest Gives the manifest's bytes.
 * @property {() => Promise<Uint8Array | null>} signature Gives the bytes of its signature; null if it has none.
 * @property {(file: File) => Promise<void>} check Refuses a file that is not as the manifest has it.
 * @property {(file: File) => Promise<Uint8Array>} load Gives a checked file's bytes.
 * @property {(file: File, session: import("./manifest.mjs").Session) => Promise<any>} open Gives an onnxruntime
 *   session of a checked file.
 *
 * @typedef {{publicKey?: string}} Options `publicKey`: 64 hexadecimal digits; if it is given, only a bundle that is
 *   signed with this key is read. An undefined one counts as given.
 * @typedef {{index: number, label: string, score: number}} Answer
 */

import { prepareImage } from "./images.mjs";
import { BundleError, parseManifest, requireVersion } from "./manifest.mjs";
import { requireSigned } from "./signature.mjs";
import { numbersOf } from "./tensors.mjs";
import { Tokenizer, inputsOf } from "./texts.mjs";

/** A manifest that was read, and where its files are. */
export class Bundle {
  /**
   * @param {Host} host
   * @param {Manifest} manifest
   */
  constructor(host, manifest) {
    this.host = host;
    this.manifest = manifest;
  }

  /**
   * Read the manifest and check its signature, if asked, and the version of onnxruntime.
   *
   * @param {Host} host
   * @param {Options} options
   * @returns {Promise<Bundle>}
   * @throws {BundleError}
   */
  static async read(host, options = {}) {
    const bytes = await host.manifest();
    if ("publicKey" in options) await requireSigned(bytes, await host.signature(), options.publicKey, host.subtle);
    const manifest = parseManifest(bytes);
    requireVersion(host.version, manifest.runtime.onnxruntime.least);
    return new Bundle(host, manifest);
  }

  /** What this CPU gets. */
  get choice() {
    const { target } = this.host;
    if (!Object.hasOwn(this.manifest.targets, target)) {
      throw new BundleError(`no model in this bundle is right on ${target}`);
    }
    return this.manifest.targets[target];
  }

  /**
   * @param {{path: string}} what
   * @returns {Promise<Uint8Array>} The bytes of its file, checked.
   */
  load(what) {
    return this.host.load(this.#file(what.path));
  }

  /** @returns {Promise<Tokenizer | null>} Null if the model takes no texts. */
  async tokenizer() {
    const { text } = this.manifest;
    if (!text) return null;
    return new Tokenizer(text, await this.load({ path: text.vocabulary }), await this.load({ path: text.characters }));
  }

  /**
   * Open the model for this CPU, after it was checked.
   *
   * @returns {Promise<Model>}
   * @throws {BundleError}
   */
  async open() {
    const variant = this.manifest.variants.find(({ path }) => path === this.choice.model);
    const tokenizer = await this.tokenizer();
    const session = await this.host.open(this.#file(variant.path), variant.session);
    return new Model(this, variant, session, tokenizer);
  }

  #file(path) {
    return this.manifest.files.find((file) => file.path === path);
  }
}

/** An open model. */
export class Model {
  #bundle;
  #tokenizer;

  /**
   * @param {Bundle} bundle
   * @param {import("./manifest.mjs").Variant} variant
   * @param {any} session
   * @param {Tokenizer | null} tokenizer
   */
  constructor(bundle, variant, session, tokenizer) {
    this.#bundle = bundle;
    this.#tokenizer = tokenizer;
    /** Which file it is. */
    this.variant = variant;
    /** The onnxruntime session. */
    this.session = session;
  }

  get manifest() {
    return this.#bundle.manifest;
  }

  get target() {
    return this.#bundle.host.target;
  }

  /**
   * @param {Record<string, any>} inputs Tensors of onnxruntime by the names of the model's inputs.
   * @returns {Promise<Record<string, any>>} The outputs, likewise.
   */
  run(inputs) {
    return this.session.run(inputs);
  }

  /**
   * @param {import("./images.mjs").Pixels} pixels
   * @returns {Record<string, any>} What `run` takes.
   */
  prepare(pixels) {
    const { image, inputs } = this.manifest;
    if (!image) throw new BundleError("this bundle's model does not take an image; use run()");
    const { data, shape } = prepareImage(pixels, image);
    return { [inputs[0].name]: new this.#bundle.host.Tensor("float32", data, shape) };
  }

  /**
   * @param {string} text
   * @returns {Record<string, any>} What `run` takes.
   */
  prepareText(text) {
    if (!this.#tokenizer) throw new BundleError("this bundle's model does not take a text; use run()");
    const inputs = inputsOf(this.manifest.text, this.#tokenizer.ids(text));
    const { Tensor } = this.#bundle.host;
    return Object.fromEntries(inputs.map(([name, ids]) => [name, new Tensor("int64", ids, [1, ids.length])]));
  }

  /**
   * @param {Record<string, any>} outputs What `run` gave, for one sample: logits come first.
   * @param {number} count How many classes, at most.
   * @returns {Answer[]} The best ones, the best first.
   */
  top(outputs, count = 5) {
    const { outputs: values, labels } = this.manifest;
    const first = outputs[values[0].name];
    return softmax(numbersOf(first.type, first.data))
      .map((score, index) => ({ index, label: labels[index] ?? String(index), score }))
      .sort((one, other) => other.score - one.score || one.index - other.index)
      .slice(0, count);
  }

  /**
   * @param {import("./images.mjs").Pixels} pixels
   * @param {number} count How many classes, at most.
   * @returns {Promise<Answer[]>} The best ones, the best first.
   */
  async classify(pixels, count = 5) {
    return this.top(await this.run(this.prepare(pixels)), count);
  }

  /** Give its memory back. */
  async close() {
    await this.session.release();
  }
}

function softmax(logits) {
  const largest = logits.reduce((most, value) => Math.max(most, value), Number.NEGATIVE_INFINITY);
  const powers = Array.from(logits, (value) => Math.exp(value - largest));
  const sum = powers.reduce((total, value) => total + value, 0);
  return powers.map((value) => value / sum);
}
