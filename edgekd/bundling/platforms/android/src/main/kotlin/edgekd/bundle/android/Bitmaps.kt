// SPDX-License-Identifier: Apache-2.0
package edgekd.bundle.android

import android.graphics.Bitmap
import edgekd.bundle.Bundle
import edgekd.bundle.Pixels
import edgekd.bundle.Score

/** Returns the pixels of a bitmap in software memory (not `Config.HARDWARE`) without their transparency. */
fun Bitmap.toPixels(): Pixels {
    val colours = IntArray(width * height)
    getPixels(colours, 0, width, 0, 0, width, height)
    val values = ByteArray(3 * colours.size)
    colours.forEachIndexed { index, colour ->
        values[3 * index] = (colour shr 16).toByte()
        values[3 * index + 1] = (colour shr 8).toByte()
        values[3 * index + 2] = colour.toByte()
    }
    return Pixels(height, width, 3, values)
}

/** Returns what is on a bitmap: the classes of the highest scores. */
fun Bundle.classify(bitmap: Bitmap, top: Int = 5): List<Score> = classify(bitmap.toPixels(), top)
