// SPDX-License-Identifier: Apache-2.0
package edgekd.bundle

import java.io.ByteArrayOutputStream
import java.io.File
import java.io.FileInputStream
import java.io.FileNotFoundException
import java.io.IOException
import java.io.InputStream
import java.io.OutputStream
import java.security.MessageDigest

private const val CHUNK = 1 shl 16

/** Where the files of a bundle lie. */
interface Place {
    /**
     * Opens a file; its path is relative to the manifest.
     *
     * @throws FileNotFoundException there is none.
     */
    fun open(path: String): InputStream
}

/** A bundle in a folder. */
class Folder(private val root: File) : Place {
    override fun open(path: String): InputStream {
        val file = File(root, path)
        if (!file.canonicalPath.startsWith(root.canonicalPath + File.separator)) {
            throw BundleException("$path: a path that leaves the bundle")
        }
        if (!file.isFile) throw FileNotFoundException("missing")
        return FileInputStream(file)
    }
}

/**
 * Reads a whole file that the manifest has.
 *
 * @throws BundleException it is missing, or not as the manifest has it.
 */
internal fun Place.read(file: FileEntry): ByteArray {
    val content = ByteArrayOutputStream(minOf(file.bytes, CHUNK.toLong()).toInt())
    copy(file, content)
    return content.toByteArray()
}

/** Finds out whether a file is as the manifest has it, and writes it to [into]. Throws as [read] does. */
internal fun Place.copy(file: FileEntry, into: OutputStream? = null) {
    val digest = MessageDigest.getInstance("SHA-256")
    var length = 0L
    opened(file.path).use { stream ->
        val chunk = ByteArray(CHUNK)
        while (true) {
            val count = stream.read(chunk)
            if (count < 0) break
            length += count
            digest.update(chunk, 0, count)
            if (length <= file.bytes) into?.write(chunk, 0, count)
        }
    }
    if (length != file.bytes) {
        throw BundleException("${file.path}: $length bytes, expected ${file.bytes}: truncated or changed")
    }
    if (hex(digest.digest()) != file.sha256) {
        throw BundleException("${file.path}: its sha256 is not that of the manifest: damaged or changed")
    }
}

internal fun sha256(content: ByteArray): String = hex(MessageDigest.getInstance("SHA-256").digest(content))

private fun Place.opened(path: String): InputStream =
    try {
        open(path)
    } catch (_: FileNotFoundException) {
        throw BundleException("$path: missing")
    } catch (error: IOException) {
        throw BundleException("$path: cannot be read: ${error.message}")
    }

private fun hex(bytes: ByteArray): String =
    bytes.joinToString("") { ((it.toInt() and 0xff) + 0x100).toString(16).substring(1) }
