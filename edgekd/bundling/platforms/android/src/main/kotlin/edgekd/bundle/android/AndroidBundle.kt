// SPDX-License-Identifier: Apache-2.0
package edgekd.bundle.android

import android.content.Context
import android.system.Os
import edgekd.bundle.Bundle
import edgekd.bundle.ModelStore
import edgekd.bundle.OnnxRuntime
import edgekd.bundle.SelfTest
import edgekd.bundle.cpuTarget
import java.io.File
import java.io.IOException

/** The bundle in the app's assets. Its calls read files: make them off the main thread. */
object AndroidBundle {
    private const val FOLDER = "edgekd-bundle"

    /**
     * Opens the model for this device's CPU; close it when it is no longer needed.
     *
     * @param folder of the bundle in the assets.
     * @param publicKey 64 hexadecimal digits: only a bundle that is signed with this key is opened.
     * @throws edgekd.bundle.BundleException the bundle is damaged or not signed, or has no model for this CPU.
     */
    fun open(context: Context, folder: String = FOLDER, publicKey: String? = null): Bundle =
        Bundle.open(AssetFiles(context.assets, folder), store(context, folder), runtime(), target(), publicKey)

    /** Says a line for each step of the self-test, and `PASS` or `FAIL: why` at the end; returns whether it passed. */
    fun selfTest(
        context: Context,
        folder: String = FOLDER,
        publicKey: String? = null,
        say: (String) -> Unit,
    ): Boolean =
        SelfTest(AssetFiles(context.assets, folder), store(context, folder), runtime(), target(), publicKey, say).run()

    /** The copies are no data of the user's: they stay out of backups. */
    private fun store(context: Context, folder: String) = ModelStore(File(context.noBackupFilesDir, folder))

    /** onnxruntime reads its switch for telemetry once, when it is loaded; a value that the app set stays. */
    private fun runtime(): OnnxRuntime {
        Os.setenv("ORT_DISABLE_TELEMETRY", "1", false)
        return OnnxRuntime()
    }

    private fun target(): String {
        val cpuinfo = try {
            File("/proc/cpuinfo").readText()
        } catch (_: IOException) {
            ""
        }
        return cpuTarget(System.getProperty("os.arch").orEmpty(), cpuinfo)
    }
}
