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
    private val tokenizer: Tokenizer?,
) : AutoCloseable {
    /** Returns the outputs by name. */
    fun run(inputs: Map<String, Tensor>): Map<String, Tensor> = session.run(inputs)

    /**
     * Returns what is on an RGB image: the classes of the highest scores.
     *
     * @throws BundleException the models take no images.
     */
    fun classify(image: Pixels, top: Int = 5): List<Score> {
        val entry = manifest.image ?: throw BundleException("this bundle's model does not take an image; use run()")
        val outputs = run(mapOf(manifest.inputs.first().name to prepare(image, entry)))
        return topScores(outputs.getValue(manifest.outputs.first().name), manifest.labels, top)
    }

    /**
     * Returns the inputs that a text makes.
     *
     * @throws BundleException the bundle has no tokenizer.
     */
    fun prepareText(text: String): Map<String, Tensor> =
        tokenizer?.inputs(text) ?: throw BundleException("this bundle's model does not take a text; use run()")

    override fun close() = session.close()

    companion object {
        /**
         * Opens the model that is named for a target, after its file was checked.
         *
         * @param publicKey 64 hexadecimal digits: only a bundle that is signed with this key is opened.
         * @throws BundleException the bundle is damaged or not signed, has no model for the target, or onnxruntime is too
         *   old.
         */
        fun open(
            place: Place,
            store: ModelStore,
            runtime: Runtime,
            target: String,
            publicKey: String? = null,
        ): Bundle {
            val manifest = readManifest(place, publicKey)
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
            val tokenizer = manifest.text?.let { Tokenizer.read(it, place) }
            return Bundle(manifest, target, variant.path, runtime.open(file, variant.session), tokenizer)
        }
    }
}
