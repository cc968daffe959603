// SPDX-License-Identifier: Apache-2.0
/**
 * Images: from pixels to the model's input, value for value what edgekd made of them where the model was measured.
 *
 * @typedef {{data: ArrayLike<number>, width: number, height: number}} Pixels Rows of RGB or RGBA, 0 to 255, such as
 *   an `ImageData`. Transparency is dropped.
 * @typedef {import("./manifest.mjs").Image} Image
 */

const BITS = 22; // of a weight's fraction
const HALF = 2 ** (BITS - 1);

/**
 * @param {Pixels} pixels
 * @param {Image} image How they become the input.
 * @returns {{data: Float32Array, shape: number[]}} With a batch of one.
 */
export function prepareImage(pixels, image) {
  const channels = image.colour === "gray" ? 1 : 3;
  const fitted = cover(planes(pixels, image.colour), pixels.width, pixels.height, image);
  const data = new Float32Array(channels * image.height * image.width);
  const planar = image.layout === "NCHW";
  fitted.forEach((plane, channel) => {
    const table = normalized(image.mean[channel], image.std[channel]);
    for (let at = 0; at < plane.length; at++) {
      data[planar ? channel * plane.length + at : at * channels + channel] = table[plane[at]];
    }
  });
  const extents = [image.height, image.width];
  return { data, shape: planar ? [1, channels, ...extents] : [1, ...extents, channels] };
}

/** One plane for each channel, in the model's order. */
function planes({ data, width, height }, colour) {
  const count = width * height;
  const step = data.length / count;
  if (step !== 3 && step !== 4) {
    throw new RangeError(`pixels: ${data.length} values are not ${width} x ${height} of RGB or RGBA`);
  }
  if (colour !== "gray") {
    return (colour === "RGB" ? [0, 1, 2] : [2, 1, 0]).map((channel) => {
      const plane = new Uint8Array(count);
      for (let to = 0, at = channel; to < count; to++, at += step) plane[to] = data[at];
      return plane;
    });
  }
  const gray = new Uint8Array(count);
  for (let to = 0, at = 0; to < count; to++, at += step) {
    gray[to] = (19595 * data[at] + 38470 * data[at + 1] + 7471 * data[at + 2] + 32768) >> 16;
  }
  return [gray];
}

/** Scale so that the wanted extent is covered, and cut the middle out; only what stays is computed. */
function cover(from, width, height, wanted) {
  if (width === wanted.width && height === wanted.height) return from;
  const scale = Math.max(wanted.height / height, wanted.width / width);
  const wide = Math.max(wanted.width, roundToEven(width * scale));
  const tall = Math.max(wanted.height, roundToEven(height * scale));
  const columns = weights(width, wide, Math.floor((wide - wanted.width) / 2), wanted.width);
  const rows = weights(height, tall, Math.floor((tall - wanted.height) / 2), wanted.height);
  return from.map((plane) => {
    const narrow = alongRows(plane, width, height, columns);
    return alongColumns(narrow, wanted.width, rows);
  });
}

/**
 * @param {number} extent Of the source.
 * @param {number} scaled What it becomes.
 * @param {number} first Of the wanted pixels among the scaled ones.
 * @param {number} count Of the wanted pixels.
 * @returns {{start: number, weights: Int32Array}[]} For each wanted pixel: the first source pixel and the weights.
 */
function weights(extent, scaled, first, count) {
  if (extent === scaled) {
    return Array.from({ length: count }, (_, at) => ({ start: first + at, weights: Int32Array.of(2 ** BITS) }));
  }
  const step = extent / scaled;
  const widened = Math.max(step, 1);
  const inverse = 1 / widened;
  return Array.from({ length: count }, (_, at) => {
    const centre = (first + at + 0.5) * step;
    const start = Math.max(0, Math.trunc(centre - 2 * widened + 0.5));
    const end = Math.min(extent, Math.trunc(centre + 2 * widened + 0.5));
    const real = Float64Array.from({ length: end - start }, (_, i) => bicubic((start + i - centre + 0.5) * inverse));
    const sum = real.reduce((total, weight) => total + weight, 0);
    const whole = (weight) => Math.trunc((weight / sum) * 2 ** BITS + (weight / sum < 0 ? -0.5 : 0.5));
    return { start, weights: Int32Array.from(real, whole) };
  });
}

function bicubic(u) {
  const a = -0.5;
  const t = Math.abs(u);
  if (t < 1) return ((a + 2) * t - (a + 3)) * t * t + 1;
  return t < 2 ? (((t - 5) * t + 8) * t - 4) * a : 0;
}

function alongRows(plane, width, height, columns) {
  const result = new Uint8ClampedArray(columns.length * height);
  let to = 0;
  for (let row = 0; row < height; row++) {
    for (const { start, weights } of columns) {
      let sum = HALF;
      for (let i = 0, at = row * width + start; i < weights.length; i++, at++) sum += plane[at] * weights[i];
      result[to++] = sum >> BITS;
    }
  }
  return result;
}

function alongColumns(plane, width, rows) {
  const result = new Uint8ClampedArray(width * rows.length);
  let to = 0;
  for (const { start, weights } of rows) {
    for (let column = 0; column < width; column++) {
      let sum = HALF;
      for (let i = 0, at = start * width + column; i < weights.length; i++, at += width) sum += plane[at] * weights[i];
      result[to++] = sum >> BITS;
    }
  }
  return result;
}

function roundToEven(value) {
  const below = Math.floor(value);
  const above = value - below;
  return below + (above > 0.5 || (above === 0.5 && below % 2 === 1) ? 1 : 0);
}

/** What each of the 256 values becomes, in single precision. */
function normalized(mean, std) {
  const f = Math.fround;
  const scale = f(f(std) * 255);
  const shift = f(f(mean) / f(std));
  return Float32Array.from({ length: 256 }, (_, value) => f(value / scale) - shift);
}
