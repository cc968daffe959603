#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
/**
 * `node selftest.mjs [--key PUBLIC_KEY] [FOLDER]`: proves the bundle in FOLDER, by default the one that this package
 * lies in; with a key it has to be signed. Exit status 0, or 1 if it fails.
 */

import { parseArgs } from "node:util";

import { hostOf } from "./edgekd-bundle.mjs";
import { prove } from "./proof.mjs";

const { values, positionals } = parseArgs({ options: { key: { type: "string" } }, allowPositionals: true });
const folder = positionals[0] ?? new URL("../", import.meta.url);
const options = values.key === undefined ? {} : { publicKey: values.key };
process.exitCode = (await prove(hostOf(folder), (line) => console.log(line), options)) ? 0 : 1;
