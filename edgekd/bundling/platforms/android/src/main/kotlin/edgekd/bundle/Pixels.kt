// SPDX-License-Identifier: Apache-2.0
package edgekd.bundle

/** An image of 8 bits a channel, pixel after pixel, row after row; [channels] is 3 (RGB) or 1 (gray). */
class Pixels(val height: Int, val width: Int, val channels: Int, val values: ByteArray) {
    init {
        require(height > 0 && width > 0) { "an image without pixels" }
        require(values.size.toLong() == height.toLong() * width * channels) {
            "${values.size} bytes are no image of $height x $width pixels with $channels channels"
        }
    }

    /** Returns the image in shades of gray. */
    internal fun gray(): Pixels {
        val shades = ByteArray(height * width) { pixel ->
            val sum = 19595 * at(3 * pixel) + 38470 * at(3 * pixel + 1) + 7471 * at(3 * pixel + 2)
            ((sum + 0x8000) shr 16).toByte()
        }
        return Pixels(height, width, 1, shades)
    }

    /** Returns a value as 0 to 255. */
    internal fun at(index: Int): Int = values[index].toInt() and 0xff
}
