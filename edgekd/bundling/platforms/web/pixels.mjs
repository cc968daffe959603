// SPDX-License-Identifier: Apache-2.0
/**
 * From an image file to its own pixels: without colour management, turning, or losses under transparency, as edgekd
 * reads images where models are trained and measured.
 */

/**
 * @param {Blob} file
 * @returns {Promise<import("./images.mjs").Pixels>}
 * @throws {DOMException} It is no image that this browser knows.
 */
export async function pixelsOf(file) {
  const plain = new Blob([withoutExif(new Uint8Array(await file.arrayBuffer()))], { type: file.type });
  const bitmap = await createImageBitmap(plain, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  try {
    const drawn = readDrawn(bitmap);
    const opaque = drawn.data.every((value, at) => at % 4 !== 3 || value === 255);
    return opaque ? drawn : readTexture(bitmap);
  } finally {
    bitmap.close();
  }
}

/** A canvas holds colours times alpha: exact for opaque pixels only. */
function readDrawn(bitmap) {
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, width, height);
}

/** A texture holds the colours of transparent pixels as they are in the file. */
function readTexture(bitmap) {
  const { width, height } = bitmap;
  const gl = new OffscreenCanvas(1, 1).getContext("webgl");
  if (!gl) throw new Error("images with transparency need WebGL");
  const most = gl.getParameter(gl.MAX_TEXTURE_SIZE);
  if (width > most || height > most) throw new Error(`images with transparency: at most ${most} pixels wide and high`);
  gl.pixelStorei(gl.UNPACK_PREMULTIPLY_ALPHA_WEBGL, false);
  gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, gl.getParameter(gl.TEXTURE_BINDING_2D), 0);
  const data = new Uint8Array(4 * width * height);
  gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, data);
  gl.getExtension("WEBGL_lose_context")?.loseContext();
  return { data, width, height };
}

/** Browsers turn a JPEG as its EXIF data say, whatever they are asked: take the data away. */
function withoutExif(bytes) {
  if (bytes[0] !== 0xff || bytes[1] !== 0xd8) return bytes;
  const APP1 = 0xe1;
  const SCAN = 0xda;
  for (let at = 2; at + 4 < bytes.length && bytes[at] === 0xff && bytes[at + 1] !== SCAN; ) {
    if (bytes[at + 1] === APP1) bytes[at + 4] = 0; // the first letter of "Exif"
    at += 2 + bytes[at + 2] * 256 + bytes[at + 3];
  }
  return bytes;
}
