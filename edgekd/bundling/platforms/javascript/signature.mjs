// SPDX-License-Identifier: Apache-2.0
/** Whether a manifest is signed with a given key: Ed25519 (RFC 8032). */

import { BundleError, MANIFEST } from "./manifest.mjs";

export const SIGNATURE = `${MANIFEST}.sig`;
const NAME = "Ed25519";

/**
 * Refuse a manifest that is not signed with a key.
 *
 * @param {Uint8Array} manifest Its bytes.
 * @param {Uint8Array | null} signature Null if there is none.
 * @param {string} publicKey 64 hexadecimal digits; anything else is nobody's key.
 * @param {SubtleCrypto | undefined} subtle What checks it.
 * @throws {BundleError}
 */
export async function requireSigned(manifest, signature, publicKey, subtle) {
  if (signature === null || !/^[0-9a-f]{64}$/i.test(publicKey)) throw unsigned();
  const bytes = Uint8Array.from(publicKey.match(/../g), (digits) => Number.parseInt(digits, 16));
  let right;
  try {
    const key = await subtle.importKey("raw", bytes, { name: NAME }, false, ["verify"]);
    right = await subtle.verify({ name: NAME }, key, signature, manifest);
  } catch (error) {
    if (subtle && error.name !== "NotSupportedError") throw unsigned();
    throw new BundleError(
      "a signature cannot be checked here: it takes WebCrypto with Ed25519, in a browser a page from https or localhost",
    );
  }
  if (right !== true) throw unsigned();
}

const unsigned = () => new BundleError(`${MANIFEST}: its signature is not of the given key`);
