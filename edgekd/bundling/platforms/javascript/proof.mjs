// SPDX-License-Identifier: Apache-2.0
/** The self-test: the bundle is whole, and its model answers here as it did where it was measured. */

import { Bundle } from "./bundle.mjs";
import { prepareImage } from "./images.mjs";
import { BundleError } from "./manifest.mjs";
import { largestDifference, numbersOf, runsOf } from "./tensors.mjs";

/**
 * @param {import("./bundle.mjs").Host} host
 * @param {(line: string) => void} say Takes each line of the report; the last is `PASS` or `FAIL: why`.
 * @param {import("./bundle.mjs").Options} options
 * @returns {Promise<boolean>} Whether it passed.
 */
export async function prove(host, say, options = {}) {
  try {
    const bundle = await Bundle.read(host, options);
    const { name, schema, runtime, files } = bundle.manifest;
    say(`manifest: ${name}, ${schema}, onnxruntime ${host.version} (least ${runtime.onnxruntime.least})`);
    for (const file of files) await host.check(file);
    say(`files: ${files.length} of ${files.length} are whole`);
    say(`target: ${host.target}, model ${bundle.choice.model}`);
    await provePreparation(bundle, say);
    await proveAnswers(bundle, say);
  } catch (error) {
    say(`FAIL: ${error.message}`);
    return false;
  }
  say("PASS");
  return true;
}

async function provePreparation(bundle, say) {
  const { image, preparation } = bundle.manifest;
  const { images, texts } = preparation;
  for (const [index, { pixels, sha256: expected }] of images.entries()) {
    const [height, width] = pixels.shape;
    const { data } = prepareImage({ data: await bundle.load(pixels), width, height }, image);
    if ((await bundle.host.sha256(new Uint8Array(data.buffer))) !== expected) {
      throw new BundleError(`preparation: image ${index} becomes another input here`);
    }
  }
  const tokenizer = await bundle.tokenizer();
  for (const [index, { text, ids }] of texts.entries()) {
    if (String(tokenizer.ids(text)) !== String(ids)) {
      throw new BundleError(`preparation: text ${index} becomes another input here`);
    }
  }
  const count = images.length + texts.length;
  if (count) say(`preparation: ${count} of ${count} vectors are exact`);
}

async function proveAnswers(bundle, say) {
  const { golden } = bundle.manifest;
  const { Tensor } = bundle.host;
  const load = async (tensor) => runsOf(tensor, await bundle.load(tensor));
  const inputs = await Promise.all(golden.inputs.map(load));
  const model = await bundle.open();
  const answers = [];
  for (let run = 0; run < golden.runs; run++) {
    const feeds = golden.inputs.map(({ name }, index) => {
      const { dtype, values, shape } = inputs[index][run];
      return [name, new Tensor(dtype, values, shape)];
    });
    answers.push(await model.run(Object.fromEntries(feeds)));
  }
  for (const output of bundle.choice.expected.outputs) {
    const expected = await load(output);
    const apart = expected.map(({ dtype, shape, values }, run) => {
      const found = answers[run][output.name];
      if (String(found.dims) !== String(shape)) {
        throw new BundleError(`golden: ${output.name} has shape [${found.dims}], expected [${shape}]`);
      }
      return largestDifference(numbersOf(found.type, found.data), numbersOf(dtype, values));
    });
    const most = Math.max(...apart);
    const words = `${output.name} differs by ${short(most)} at most, ${short(output.tolerance)} is allowed`;
    if (!(most <= output.tolerance)) throw new BundleError(`golden: ${words}`);
    say(`golden: ${golden.runs} runs, ${words}`);
  }
  await model.close();
}

const short = (value) => String(Number(value.toPrecision(3)));
