// SPDX-License-Identifier: Apache-2.0
/** Files of values, and how far two lots of values are apart. */

const ARRAYS = {
  float16: Uint16Array,
  float32: Float32Array,
  float64: Float64Array,
  int8: Int8Array,
  uint8: Uint8Array,
  bool: Uint8Array,
  int16: Int16Array,
  uint16: Uint16Array,
  int32: Int32Array,
  uint32: Uint32Array,
  int64: BigInt64Array,
  uint64: BigUint64Array,
};

/**
 * @param {string} dtype
 * @returns {number | undefined} Bytes of one value; undefined if there is no such type.
 */
export function itemBytes(dtype) {
  return Object.hasOwn(ARRAYS, dtype) ? ARRAYS[dtype].BYTES_PER_ELEMENT : undefined;
}

/**
 * Cut the values of a file into runs, the first axis.
 *
 * @param {{dtype: string, shape: number[]}} tensor
 * @param {Uint8Array} bytes Little-endian, row after row.
 * @returns {{dtype: string, shape: number[], values: ArrayLike<number | bigint>}[]} One for each run.
 */
export function runsOf(tensor, bytes) {
  const [runs, ...shape] = tensor.shape;
  const all = new ARRAYS[tensor.dtype](bytes.slice().buffer); // a copy: the values need not begin where words do
  const each = all.length / runs;
  return Array.from({ length: runs }, (_, run) => ({
    dtype: tensor.dtype,
    shape,
    values: all.slice(run * each, (run + 1) * each),
  }));
}

/**
 * @param {string} dtype
 * @param {ArrayLike<number | bigint>} values As onnxruntime has them.
 * @returns {Float64Array}
 */
export function numbersOf(dtype, values) {
  const halves = dtype === "float16" && values instanceof Uint16Array;
  return Float64Array.from(values, halves ? halfToNumber : Number);
}

function halfToNumber(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return exponent ? sign * 2 ** (exponent - 25) * (1024 + fraction) : sign * 2 ** -24 * fraction;
}

/**
 * @param {Float64Array} found
 * @param {Float64Array} expected
 * @returns {number} The largest absolute difference; NaN if there is one.
 */
export function largestDifference(found, expected) {
  return expected.reduce((largest, value, index) => Math.max(largest, Math.abs(found[index] - value)), 0);
}
