// SPDX-License-Identifier: Apache-2.0
package edgekd.bundle

private const val BITS = 22
private const val A = -0.5

/** Scales an image so that it covers the size, and cuts out its middle. */
internal fun cover(image: Pixels, height: Int, width: Int): Pixels {
    if (image.height == height && image.width == width) return image
    val scale = maxOf(height.toDouble() / image.height, width.toDouble() / image.width)
    val scaledWidth = maxOf(width, Math.rint(image.width * scale).toInt())
    val scaledHeight = maxOf(height, Math.rint(image.height * scale).toInt())
    val rows = alongRows(image, Axis(image.width, scaledWidth, (scaledWidth - width) / 2, width))
    return alongColumns(rows, Axis(image.height, scaledHeight, (scaledHeight - height) / 2, height))
}

/** One direction of a resampling: for each of [count] output pixels the input pixels it is made of. */
private class Axis(input: Int, output: Int, from: Int, val count: Int) {
    val first = IntArray(count)
    val weights: Array<IntArray>

    init {
        weights = Array(count) { index ->
            val pixel = from + index
            if (input == output) {
                first[index] = pixel
                intArrayOf(1 shl BITS)
            } else {
                weigh(input, output, pixel).let { (start, weights) ->
                    first[index] = start
                    weights
                }
            }
        }
    }

    private fun weigh(input: Int, output: Int, pixel: Int): Pair<Int, IntArray> {
        val scale = input.toDouble() / output
        val widening = maxOf(scale, 1.0)
        val centre = (pixel + 0.5) * scale
        val start = maxOf(0, (centre - 2 * widening + 0.5).toInt())
        val end = minOf(input, (centre + 2 * widening + 0.5).toInt())
        val shrink = 1 / widening
        val raw = DoubleArray(end - start) { keys((start + it - centre + 0.5) * shrink) }
        var sum = 0.0
        for (weight in raw) sum += weight
        return start to IntArray(raw.size) { fixed(raw[it] / sum) }
    }

    private fun fixed(weight: Double): Int =
        (weight * (1 shl BITS) + if (weight < 0) -0.5 else 0.5).toInt()
}

/** The cubic kernel of Keys (1981). */
private fun keys(u: Double): Double {
    val t = Math.abs(u)
    return when {
        t < 1 -> ((A + 2) * t - (A + 3)) * t * t + 1
        t < 2 -> (((t - 5) * t + 8) * t - 4) * A
        else -> 0.0
    }
}

private fun alongRows(image: Pixels, axis: Axis): Pixels {
    val channels = image.channels
    val result = ByteArray(image.height * axis.count * channels)
    var at = 0
    for (row in 0 until image.height) {
        for (column in 0 until axis.count) {
            val start = (row * image.width + axis.first[column]) * channels
            for (channel in 0 until channels) {
                result[at++] = mixed(image, start + channel, channels, axis.weights[column])
            }
        }
    }
    return Pixels(image.height, axis.count, channels, result)
}

private fun alongColumns(image: Pixels, axis: Axis): Pixels {
    val stride = image.width * image.channels
    val result = ByteArray(axis.count * stride)
    var at = 0
    for (row in 0 until axis.count) {
        for (offset in 0 until stride) {
            result[at++] = mixed(image, axis.first[row] * stride + offset, stride, axis.weights[row])
        }
    }
    return Pixels(axis.count, image.width, image.channels, result)
}

private fun mixed(image: Pixels, start: Int, step: Int, weights: IntArray): Byte {
    var sum = 1 shl (BITS - 1)
    var at = start
    for (weight in weights) {
        sum += image.at(at) * weight
        at += step
    }
    return minOf(maxOf(sum shr BITS, 0), 255).toByte()
}
