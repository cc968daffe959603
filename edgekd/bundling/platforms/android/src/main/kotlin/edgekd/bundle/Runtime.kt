// SPDX-License-Identifier: Apache-2.0
package edgekd.bundle

import java.io.File

/** What runs models. */
interface Runtime {
    /** Version of onnxruntime. */
    val version: String

    /** Opens a model by its path. */
    fun open(model: File, entry: SessionEntry): Session
}

/** An open model. */
interface Session : AutoCloseable {
    /** Returns the outputs by name. */
    fun run(inputs: Map<String, Tensor>): Map<String, Tensor>
}
