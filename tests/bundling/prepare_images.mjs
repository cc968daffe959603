/** `node prepare_images.mjs PACKAGE`: from lines of `{image, width, height, pixels}` to lines of prepared values. */

import path from "node:path";
import process from "node:process";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const { prepareImage } = await import(pathToFileURL(path.resolve(process.argv[2], "images.mjs")));
for await (const line of createInterface({ input: process.stdin })) {
  const { image, width, height, pixels } = JSON.parse(line);
  const { data, shape } = prepareImage({ data: Buffer.from(pixels, "base64"), width, height }, image);
  console.log(JSON.stringify({ shape, values: Buffer.from(data.buffer).toString("base64") }));
}
