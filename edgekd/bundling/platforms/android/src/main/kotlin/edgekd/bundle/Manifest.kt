// SPDX-License-Identifier: Apache-2.0
package edgekd.bundle

import java.io.IOException
import java.nio.ByteBuffer
import java.nio.charset.CharacterCodingException
import java.nio.charset.CodingErrorAction

const val MANIFEST = "edgekd-bundle.json"
const val SCHEMA = "edgekd.bundle/1"
private const val MOST_VALUES = 1L shl 26 // of one image, 256 MB in float32
private val COLOURS = listOf("RGB", "BGR", "gray")
private val LAYOUTS = listOf("NCHW", "NHWC")
private val LEVELS = listOf("all", "extended", "basic", "none")

/** A file that the package reads. */
class FileEntry(val path: String, val bytes: Long, val sha256: String)

/** A file of values in little-endian order, row after row. */
class TensorEntry(val name: String, val dtype: String, val shape: LongArray, val path: String)

/** What an output is expected to be; [tolerance] is an absolute difference. */
class ExpectedOutput(val tensor: TensorEntry, val tolerance: Double)

/** An input or output of the models; null is a free axis. */
class ValueEntry(val name: String, val dtype: String, val shape: List<Long?>)

/** How pixels become the input. */
class ImageEntry(
    val colour: String,
    val layout: String,
    val height: Int,
    val width: Int,
    val mean: List<Double>,
    val std: List<Double>,
)

/** How a text becomes the inputs; their names are null where the models have none. */
class TextEntry(
    val vocabulary: FileEntry,
    val characters: FileEntry,
    val unknown: Long,
    val first: Long,
    val last: Long,
    val continuation: String,
    val longestWord: Int,
    val longest: Int,
    val ids: String?,
    val mask: String?,
    val types: String?,
)

/** What a session is opened with; 0 threads are as many as onnxruntime likes. */
class SessionEntry(
    val intraOpNumThreads: Int,
    val intraOpSpinning: Boolean,
    val enableCpuMemArena: Boolean,
    val graphOptimizationLevel: String,
)

/** A model. */
class VariantEntry(val path: String, val session: SessionEntry)

/** The model of a target, and what it answers to the golden inputs. */
class Choice(val model: VariantEntry, val expected: List<ExpectedOutput>)

/** The inputs of the self-test; the first axis of each is the runs. */
class Golden(val runs: Int, val inputs: List<TensorEntry>)

/** Pixels, and the sha256 of what they become. */
class ImageVector(val pixels: TensorEntry, val sha256: String)

/** A text, and the token numbers that it becomes. */
class TextVector(val text: String, val ids: List<Long>)

/** What `edgekd-bundle.json` says, as far as this package needs it. */
class Manifest(
    val name: String,
    val leastOnnxruntime: String,
    val files: Map<String, FileEntry>,
    val inputs: List<ValueEntry>,
    val outputs: List<ValueEntry>,
    val image: ImageEntry?,
    val text: TextEntry?,
    val labels: List<String>,
    val variants: List<VariantEntry>,
    val targets: Map<String, Choice>,
    val golden: Golden,
    val images: List<ImageVector>,
    val texts: List<TextVector>,
) {
    /** Returns the model of a target. */
    fun choose(target: String): Choice =
        targets[target] ?: throw BundleException("no model in this bundle is right on $target")

    /** Refuses an onnxruntime that is too old for the models. */
    fun requireOnnxruntime(found: String) {
        val differing = numbers(found).zip(numbers(leastOnnxruntime)).firstOrNull { (have, need) -> have != need }
        if (differing != null && differing.first < differing.second) {
            throw BundleException("onnxruntime $found is too old for these models, which need $leastOnnxruntime")
        }
    }

    private fun numbers(version: String): List<Int> {
        val found = Regex("[0-9]{1,9}").findAll(version.substringBefore('-').substringBefore('+'))
        return (found.map { it.value.toInt() } + sequenceOf(0, 0, 0)).take(3).toList()
    }
}

/**
 * Reads the manifest of a bundle.
 *
 * @param publicKey 64 hexadecimal digits: only a bundle that is signed with this key is read.
 * @throws BundleException there is none, or it is not as edgekd.bundle/1 has it.
 */
fun readManifest(place: Place, publicKey: String? = null): Manifest {
    val content = try {
        place.open(MANIFEST).use { it.readBytes() }
    } catch (error: IOException) {
        throw BundleException("$MANIFEST: cannot be read: ${error.message ?: error.javaClass.simpleName}")
    }
    if (publicKey != null) requireSigned(place, content, publicKey)
    val data = try {
        val decoder = Charsets.UTF_8.newDecoder().onMalformedInput(CodingErrorAction.REPORT)
        parseJson(decoder.decode(ByteBuffer.wrap(content)).toString())
    } catch (_: CharacterCodingException) {
        throw BundleException("$MANIFEST: cannot be read: no UTF-8")
    } catch (error: IllegalArgumentException) {
        throw BundleException("$MANIFEST: cannot be read: ${error.message}")
    }
    val schema = (data as? Map<*, *>)?.get("schema")
    if (schema != SCHEMA) {
        throw BundleException("$MANIFEST: its schema is $schema; this package reads $SCHEMA: update the package")
    }
    return ManifestReader(Field(data, "")).manifest()
}

private class ManifestReader(private val root: Field) {
    private val files = root["files"].list().map(::file).associateBy { it.path }
    private val variants = root["variants"].list().map(::variant).associateBy { it.path }

    fun manifest(): Manifest {
        val runs = root["golden"]["runs"].int(1)
        val text = root["text"].orNull()?.let(::text)
        val image = root["image"].orNull()?.let(::image)
        val images = root["preparation"]["images"]
        val texts = root["preparation"]["texts"]
        return Manifest(
            name = root["name"].text(),
            leastOnnxruntime = root["runtime"]["onnxruntime"]["least"].text(),
            files = files,
            inputs = root["inputs"].list().map(::value),
            outputs = root["outputs"].list().map(::value),
            image = image,
            text = text,
            labels = root["labels"].list().map { it.text() },
            variants = variants.values.toList(),
            targets = root["targets"].members().mapValues { choice(it.value, runs) },
            golden = Golden(runs, root["golden"]["inputs"].list().map { perRun(it, runs) }),
            images = images.list().map { if (image == null) images.refuse() else imageVector(it) },
            texts = texts.list().map { if (text == null) texts.refuse() else textVector(it) },
        )
    }

    private fun file(field: Field) =
        FileEntry(field["path"].path(), field["bytes"].whole(), field["sha256"].sha256())

    private fun variant(field: Field): VariantEntry {
        val session = field["session"]
        return VariantEntry(
            listed(field["path"]).path,
            SessionEntry(
                session["intra_op_num_threads"].int(),
                session["intra_op_spinning"].truth(),
                session["enable_cpu_mem_arena"].truth(),
                session["graph_optimization_level"].oneOf(LEVELS),
            ),
        )
    }

    private fun value(field: Field) = ValueEntry(
        field["name"].text(),
        field["dtype"].oneOf(SIZES.keys),
        field["shape"].list().map { axis -> axis.orNull()?.whole() },
    )

    private fun image(field: Field): ImageEntry {
        val colour = field["colour"].oneOf(COLOURS)
        val channels = if (colour == "gray") 1 else 3
        field["resize"].oneOf(listOf("cover-bicubic"))
        val height = field["height"].int(1)
        val width = field["width"].int(1)
        if (height.toLong() * width > MOST_VALUES / channels) field.refuse()
        val mean = field["mean"].list().map { it.number() }
        val std = field["std"].list().map { it.number() }
        if (mean.size != channels) field["mean"].refuse()
        if (std.size != channels || std.any { it <= 0 }) field["std"].refuse()
        return ImageEntry(colour, field["layout"].oneOf(LAYOUTS), height, width, mean, std)
    }

    private fun text(field: Field) = TextEntry(
        vocabulary = listed(field["vocabulary"]),
        characters = listed(field["characters"]),
        unknown = field["unknown"].whole(),
        first = field["first"].whole(),
        last = field["last"].whole(),
        continuation = field["continuation"].text(),
        longestWord = field["longest_word"].int(1),
        longest = field["longest"].int(2),
        ids = field["ids"].orNull()?.text(),
        mask = field["mask"].orNull()?.text(),
        types = field["types"].orNull()?.text(),
    )

    private fun textVector(field: Field) = TextVector(field["text"].text(), field["ids"].list().map { it.whole() })

    private fun choice(field: Field, runs: Int): Choice {
        val model = variants[field["model"].path()] ?: field["model"].refuse()
        val outputs = field["expected"]["outputs"].list()
        return Choice(model, outputs.map { ExpectedOutput(perRun(it, runs), tolerance(it["tolerance"])) })
    }

    private fun tolerance(field: Field): Double = field.number().takeIf { it >= 0 } ?: field.refuse()

    private fun imageVector(field: Field): ImageVector {
        val pixels = tensor(field["pixels"])
        val isImage = pixels.dtype == "uint8" && pixels.shape.size == 3 && pixels.shape[2] == 3L
        if (!isImage || 0L in pixels.shape) field["pixels"].refuse()
        return ImageVector(pixels, field["sha256"].sha256())
    }

    private fun perRun(field: Field, runs: Int): TensorEntry =
        tensor(field).takeIf { it.shape.firstOrNull() == runs.toLong() } ?: field["shape"].refuse()

    private fun tensor(field: Field): TensorEntry {
        val dtype = field["dtype"].oneOf(SIZES.keys)
        val shape = field["shape"].list().map { it.whole() }.toLongArray()
        val file = listed(field["path"])
        val fits = try {
            shape.fold(SIZES.getValue(dtype).toLong(), Math::multiplyExact) == file.bytes
        } catch (_: ArithmeticException) {
            false
        }
        if (!fits || file.bytes > Int.MAX_VALUE) field["shape"].refuse()
        return TensorEntry(field["name"].text(), dtype, shape, file.path)
    }

    private fun listed(field: Field): FileEntry = files[field.path()] ?: field.refuse()
}
