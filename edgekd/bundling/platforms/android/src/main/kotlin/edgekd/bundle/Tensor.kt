// SPDX-License-Identifier: Apache-2.0
package edgekd.bundle

import java.nio.ByteBuffer
import java.nio.ByteOrder

/** Bytes of a value by the name of its kind. */
internal val SIZES = mapOf(
    "float16" to 2, "float32" to 4, "float64" to 8, "bool" to 1,
    "int8" to 1, "int16" to 2, "int32" to 4, "int64" to 8, "uint8" to 1,
)

/** Values of one kind in little-endian order, row after row. */
class Tensor(val dtype: String, val shape: LongArray, content: ByteArray) {
    private val content: ByteBuffer =
        ByteBuffer.allocateDirect(content.size).order(ByteOrder.LITTLE_ENDIAN).put(content).apply { rewind() }

    /** Number of values. */
    val size: Int = shape.fold(1L) { product, axis -> product * axis }.toInt()

    init {
        require(content.size == size * SIZES.getValue(dtype)) {
            "${content.size} bytes are no $dtype of ${shape.toList()}"
        }
    }

    /** Returns a view of the values' bytes from the first on. */
    fun bytes(): ByteBuffer = content.duplicate().order(ByteOrder.LITTLE_ENDIAN)

    /** Returns a value as a number. */
    operator fun get(index: Int): Double = when (dtype) {
        "float16" -> half(content.getShort(index * 2).toInt())
        "float32" -> content.getFloat(index * 4).toDouble()
        "float64" -> content.getDouble(index * 8)
        "int16" -> content.getShort(index * 2).toDouble()
        "int32" -> content.getInt(index * 4).toDouble()
        "int64" -> content.getLong(index * 8).toDouble()
        "int8" -> content.get(index).toDouble()
        else -> (content.get(index).toInt() and 0xff).toDouble()
    }

    /** Returns the part of a tensor that lies at one position of its first axis, without that axis. */
    internal fun at(position: Int): Tensor {
        val length = content.capacity() / shape[0].toInt()
        val part = ByteArray(length)
        bytes().apply { position(position * length) }.get(part)
        return Tensor(dtype, shape.copyOfRange(1, shape.size), part)
    }
}

/** Returns float32 values as a tensor. */
internal fun tensorOf(shape: LongArray, values: FloatArray): Tensor {
    val content = ByteBuffer.allocate(values.size * 4).order(ByteOrder.LITTLE_ENDIAN)
    content.asFloatBuffer().put(values)
    return Tensor("float32", shape, content.array())
}

/** Returns int64 values as a tensor. */
internal fun tensorOf(shape: LongArray, values: LongArray): Tensor {
    val content = ByteBuffer.allocate(values.size * 8).order(ByteOrder.LITTLE_ENDIAN)
    content.asLongBuffer().put(values)
    return Tensor("int64", shape, content.array())
}

/** IEEE 754 binary16. */
private fun half(bits: Int): Double {
    val exponent = (bits shr 10) and 0x1f
    val fraction = (bits and 0x3ff) / 1024.0
    val magnitude = when (exponent) {
        0 -> Math.scalb(fraction, -14)
        31 -> if (fraction == 0.0) Double.POSITIVE_INFINITY else Double.NaN
        else -> Math.scalb(1.0 + fraction, exponent - 15)
    }
    return if (bits and 0x8000 != 0) -magnitude else magnitude
}
