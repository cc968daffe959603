// SPDX-License-Identifier: Apache-2.0
package edgekd.bundle

import java.io.File
import java.io.FileOutputStream
import java.io.IOException
import java.io.RandomAccessFile

/**
 * Where models lie that onnxruntime opens by path, each in a folder that is named by its sha256.
 *
 * onnxruntime maps a file that it opens by path; one that is handed over as bytes lies in memory twice.
 */
class ModelStore(private val folder: File) {
    /**
     * Returns the path of a model, copied here unless it is already; it is checked each time.
     *
     * @throws BundleException it is missing in the bundle, not as the manifest has it, or cannot be written here.
     */
    fun fetch(place: Place, model: FileEntry): File = locked {
        val copy = File(File(folder, model.sha256), File(model.path).name)
        if (!isWhole(copy, model)) {
            val part = File(folder, "part")
            FileOutputStream(part).use { stream ->
                place.copy(model, stream)
                stream.fd.sync()
            }
            copy.parentFile?.mkdirs()
            if (!part.renameTo(copy)) throw IOException("cannot be moved to $copy")
        }
        copy
    }

    /** Removes the models that a manifest does not have: those of earlier versions of the app. */
    fun removeOthers(manifest: Manifest) = locked {
        val kept = manifest.files.values.map { it.sha256 }.toSet() + LOCK
        folder.listFiles()?.filter { it.name !in kept }?.forEach { it.deleteRecursively() }
    }

    private fun isWhole(copy: File, model: FileEntry): Boolean =
        try {
            Folder(copy.parentFile ?: folder).copy(FileEntry(copy.name, model.bytes, model.sha256))
            true
        } catch (_: BundleException) {
            false
        }

    /** Keeps other threads and processes of the app out meanwhile. */
    private fun <T> locked(work: () -> T): T = synchronized(ModelStore::class.java) {
        try {
            folder.mkdirs()
            RandomAccessFile(File(folder, LOCK), "rw").use { file -> file.channel.lock().use { work() } }
        } catch (error: IOException) {
            throw BundleException("$folder: cannot be written: ${error.message}")
        }
    }

    private companion object {
        const val LOCK = "lock"
    }
}
