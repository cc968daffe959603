// SPDX-License-Identifier: Apache-2.0
package edgekd.bundle

/**
 * The model of a bundle for one CPU, open.
 *
 * @property manifest what the bundle says of itself.
 * @property target the CPU's.
 * @property model path of the model in the bundle.
 */
class Bundle private constructor(
    val manifest: Manifest,
    val target: String,
    val model: String,
    private val session: Session,
) : AutoCloseable {
    /** Returns the outputs by name. */
    fun run(inputs: Map<String, Tensor>): Map<String, Tensor> = session.run(inputs)

    /**
     * Returns what is on an RGB image: the classes of the highest scores.
     *
     * @throws BundleException the models take no images.
     */
    fun classify(image: Pixels, top: Int = 5): List<Score> {
        val entry = manifest.image ?: throw BundleException("the models of this bundle take no images")
        val outputs = run(mapOf(manifest.inputs.first().name to prepare(image, entry)))
        return topScores(outputs.getValue(manifest.outputs.first().name), manifest.labels, top)
    }

    override fun close() = session.close()

    companion object {
        /**
         * Opens the model that is named for a target, after its file was checked.
         *
         * @throws BundleException the bundle is damaged, has no model for the target, or onnxruntime is too old.
         */
        fun open(place: Place, store: ModelStore, runtime: Runtime, target: String): Bundle {
            val manifest = readManifest(place)
            manifest.requireOnnxruntime(runtime.version)
            store.removeOthers(manifest)
            return open(manifest, place, store, runtime, target)
        }

        internal fun open(
            manifest: Manifest,
            place: Place,
            store: ModelStore,
            runtime: Runtime,
            target: String,
        ): Bundle {
            val variant = manifest.choose(target).model
            val file = store.fetch(place, manifest.files.getValue(variant.path))
            return Bundle(manifest, target, variant.path, runtime.open(file, variant.session))
        }
    }
}
