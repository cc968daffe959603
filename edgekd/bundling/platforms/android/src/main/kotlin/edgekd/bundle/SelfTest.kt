// SPDX-License-Identifier: Apache-2.0
package edgekd.bundle

import java.math.BigDecimal
import java.math.MathContext

/** Proves that a bundle is whole, and that its model answers here as it did where the bundle was made. */
class SelfTest(
    private val place: Place,
    private val store: ModelStore,
    private val runtime: Runtime,
    private val target: String,
    private val publicKey: String?,
    private val say: (String) -> Unit,
) {
    /** Says a line for each step, and `PASS` or `FAIL: why` at the end; returns whether it passed. */
    fun run(): Boolean {
        try {
            val manifest = readManifest(place, publicKey)
            testRuntime(manifest)
            testFiles(manifest)
            testPreparation(manifest)
            testGolden(manifest)
        } catch (error: BundleException) {
            say("FAIL: ${error.message}")
            return false
        }
        say("PASS")
        return true
    }

    private fun testRuntime(manifest: Manifest) {
        say("manifest: ${manifest.name}, $SCHEMA, onnxruntime ${runtime.version} (least ${manifest.leastOnnxruntime})")
        manifest.requireOnnxruntime(runtime.version)
    }

    private fun testFiles(manifest: Manifest) {
        manifest.files.values.forEach { place.copy(it) }
        say("files: ${manifest.files.size} of ${manifest.files.size} are whole")
        say("target: $target, model ${manifest.choose(target).model.path}")
    }

    private fun testPreparation(manifest: Manifest) {
        manifest.image?.let { testImages(manifest, it) }
        manifest.text?.let { testTexts(manifest, Tokenizer.read(it, place)) }
        val count = manifest.images.size + manifest.texts.size
        if (count > 0) say("preparation: $count of $count vectors are exact")
    }

    private fun testImages(manifest: Manifest, image: ImageEntry) {
        manifest.images.forEachIndexed { number, vector ->
            val (height, width) = vector.pixels.shape.map { it.toInt() }
            val pixels = Pixels(height, width, 3, contentOf(vector.pixels, manifest))
            val prepared = prepare(pixels, image).bytes()
            if (sha256(ByteArray(prepared.remaining()).also { prepared.get(it) }) != vector.sha256) {
                throw BundleException("preparation: image $number becomes another input here")
            }
        }
    }

    private fun testTexts(manifest: Manifest, tokenizer: Tokenizer) {
        manifest.texts.forEachIndexed { number, vector ->
            if (tokenizer.ids(vector.text).toList() != vector.ids) {
                throw BundleException("preparation: text $number becomes another input here")
            }
        }
    }

    private fun testGolden(manifest: Manifest) {
        val inputs = manifest.golden.inputs.associate { it.name to load(it, manifest) }
        val expected = manifest.choose(target).expected
        val answers = Bundle.open(manifest, place, store, runtime, target).use { bundle ->
            (0 until manifest.golden.runs).map { run -> bundle.run(inputs.mapValues { it.value.at(run) }) }
        }
        for (output in expected) {
            val name = output.tensor.name
            val wanted = load(output.tensor, manifest)
            val apart = answers.mapIndexed { run, outputs -> difference(name, outputs[name], wanted.at(run)) }
            val difference = if (apart.any { it.isNaN() }) Double.NaN else apart.max()
            val line = "$name differs by ${short(difference)} at most, ${short(output.tolerance)} is allowed"
            if (!(difference <= output.tolerance)) throw BundleException("golden: $line")
            say("golden: ${manifest.golden.runs} runs, $line")
        }
    }

    private fun difference(name: String, found: Tensor?, wanted: Tensor): Double {
        if (found == null || !found.shape.contentEquals(wanted.shape)) {
            val shape = found?.shape?.toList() ?: "none"
            throw BundleException("golden: $name has shape $shape, expected ${wanted.shape.toList()}")
        }
        var largest = 0.0
        for (index in 0 until found.size) {
            val difference = Math.abs(found[index] - wanted[index])
            if (difference.isNaN()) return Double.NaN
            largest = maxOf(largest, difference)
        }
        return largest
    }

    private fun load(entry: TensorEntry, manifest: Manifest) =
        Tensor(entry.dtype, entry.shape, contentOf(entry, manifest))

    private fun contentOf(entry: TensorEntry, manifest: Manifest): ByteArray =
        place.read(manifest.files.getValue(entry.path))

    private fun short(value: Double): String = when {
        value == 0.0 -> "0"
        value.isNaN() || value.isInfinite() -> "$value"
        else -> BigDecimal(value).round(MathContext(3)).stripTrailingZeros().toPlainString()
    }
}
