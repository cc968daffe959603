#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
/**
 * `node serve.mjs [--port N] [--host NAME]`: serves the bundle that this package lies in, to this machine alone.
 *
 * With the headers that make a page isolated, so that it may use threads. Not made for the open network: an app's own
 * server has to send the same headers.
 */

import { createReadStream } from "node:fs";
import { realpath, stat } from "node:fs/promises";
import { createServer } from "node:http";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const HEADERS = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Resource-Policy": "same-origin",
  "X-Content-Type-Options": "nosniff",
  "Cache-Control": "no-cache",
};
const TYPES = {
  ".css": "text/css; charset=utf-8",
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".json": "application/json",
  ".md": "text/plain; charset=utf-8",
  ".mjs": "text/javascript; charset=utf-8",
  ".txt": "text/plain; charset=utf-8",
  ".wasm": "application/wasm",
};
const PAGE = "/web/index.html";

const { values } = parseArgs({
  options: { port: { type: "string", default: "8080" }, host: { type: "string", default: "127.0.0.1" } },
});
const root = await realpath(fileURLToPath(new URL("../", import.meta.url)));

const server = createServer(async (request, response) => {
  const answer = (status, headers = {}, text = "") => response.writeHead(status, { ...HEADERS, ...headers }).end(text);
  try {
    if (!["GET", "HEAD"].includes(request.method)) return answer(405, { Allow: "GET, HEAD" });
    const { pathname, search } = new URL(request.url, "http://localhost");
    if (pathname === "/" || pathname === "/web/") return answer(302, { Location: PAGE + search });
    const place = await fileOf(pathname);
    if (place === null) return answer(404, {}, "not found\n");
    const type = TYPES[path.extname(place)] ?? "application/octet-stream";
    response.writeHead(200, { ...HEADERS, "Content-Type": type, "Content-Length": (await stat(place)).size });
    if (request.method === "HEAD") return response.end();
    return createReadStream(place).on("error", () => response.destroy()).pipe(response);
  } catch {
    return answer(400, {}, "bad request\n");
  }
});

/** Give the real path of a file of the bundle, or null: links that lead out of it are not followed. */
async function fileOf(pathname) {
  const names = decodeURIComponent(pathname).split("/");
  if (names.some((name) => name === ".." || name.includes("\\") || name.includes("\0"))) return null;
  const place = await realpath(path.join(root, ...names)).catch(() => null);
  if (place === null || !place.startsWith(root + path.sep) || !(await stat(place)).isFile()) return null;
  return place;
}

server.on("error", (error) => {
  console.error(`cannot listen: ${error.message}`);
  process.exitCode = 1;
});
server.listen(Number(values.port), values.host, () => {
  const { port } = server.address();
  console.log(`http://${values.host}:${port}${PAGE}`);
});
