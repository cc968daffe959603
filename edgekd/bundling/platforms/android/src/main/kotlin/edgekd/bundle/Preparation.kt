// SPDX-License-Identifier: Apache-2.0
package edgekd.bundle

/** Turns an RGB image into the input of the models, a batch of one. */
internal fun prepare(image: Pixels, entry: ImageEntry): Tensor {
    require(image.channels == 3) { "expected an RGB image" }
    val coloured = if (entry.colour == "gray") image.gray() else image
    val pixels = cover(coloured, entry.height, entry.width)
    val channels = pixels.channels
    val count = entry.height * entry.width
    val isNchw = entry.layout == "NCHW"
    val values = FloatArray(channels * count)
    for (channel in 0 until channels) {
        val source = if (entry.colour == "BGR") channels - 1 - channel else channel
        val std = entry.std[channel].toFloat()
        val scale = std * 255f
        val shift = entry.mean[channel].toFloat() / std
        for (pixel in 0 until count) {
            val at = if (isNchw) channel * count + pixel else pixel * channels + channel
            values[at] = pixels.at(pixel * channels + source) / scale - shift
        }
    }
    val sides = listOf(entry.height, entry.width).map { it.toLong() }
    val shape = if (isNchw) listOf(1L, channels.toLong()) + sides else listOf(1L) + sides + channels.toLong()
    return tensorOf(shape.toLongArray(), values)
}
