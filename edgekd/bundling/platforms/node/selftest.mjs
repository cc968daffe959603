#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
/** `node selftest.mjs [FOLDER]`: proves the bundle that this package lies in. Exit status 0, or 1 if it fails. */

import { hostOf } from "./edgekd-bundle.mjs";
import { prove } from "./proof.mjs";

const folder = process.argv[2] ?? new URL("../", import.meta.url);
process.exitCode = (await prove(hostOf(folder), (line) => console.log(line))) ? 0 : 1;
