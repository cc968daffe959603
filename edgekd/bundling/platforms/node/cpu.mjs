// SPDX-License-Identifier: Apache-2.0
/** Which target this CPU is: the instructions that decide how its INT8 kernels add. */

import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";

const DARWIN = {
  "hw.optional.arm.FEAT_DotProd": "asimddp",
  "hw.optional.arm.FEAT_I8MM": "i8mm",
  "hw.optional.avx512vnni": "avx512_vnni",
};

/** @returns {string} */
export const cpuTarget = () => classify(process.arch, cpuFlags());

/**
 * @param {string} architecture As Node.js names it.
 * @param {Set<string>} flags Of the CPU, as Linux spells them; without any it counts as the oldest of its kind.
 * @returns {string}
 */
export function classify(architecture, flags) {
  const has = (...names) => names.some((name) => flags.has(name));
  if (architecture === "x64") return has("avx_vnni", "avx512_vnni", "avxvnni", "avx512vnni") ? "x86-vnni" : "x86-avx2";
  if (architecture !== "arm64") return architecture;
  if (has("i8mm")) return "arm64-i8mm";
  return has("asimddp") ? "arm64-dotprod" : "arm64";
}

/**
 * @param {string} text Of `/proc/cpuinfo`.
 * @returns {Set<string>} The flags that every core has: big and little ones may differ.
 */
export function parseCpuinfo(text) {
  const cores = text
    .split("\n")
    .map((line) => line.split(":"))
    .filter(([key]) => ["flags", "Features"].includes(key.trim()))
    .map(([, value = ""]) => value.trim().split(/\s+/));
  return new Set((cores[0] ?? []).filter((flag) => cores.every((core) => core.includes(flag))));
}

function cpuFlags() {
  try {
    if (process.platform === "linux") return parseCpuinfo(readFileSync("/proc/cpuinfo", "utf8"));
    if (process.platform === "darwin") return darwinFlags();
  } catch {
    // a system that does not tell
  }
  return new Set();
}

function darwinFlags() {
  const names = Object.keys(DARWIN);
  const answer = execFileSync("/usr/sbin/sysctl", ["-i", ...names], { encoding: "utf8", timeout: 5000 });
  return new Set(names.filter((name) => answer.split("\n").includes(`${name}: 1`)).map((name) => DARWIN[name]));
}
