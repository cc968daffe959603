package edgekd.bundle

import android.content.Context
import android.graphics.Bitmap
import android.system.Os
import edgekd.bundle.android.AndroidBundle
import edgekd.bundle.android.toPixels
import java.io.File
import java.security.Security

/** Does what the tests ask for, a line of words between tabs; answers with lines and one that says `end`. */
fun main() {
    for (line in generateSequence(::readLine)) {
        val words = line.split('\t')
        try {
            answer(words[0], words.drop(1))
        } catch (error: BundleException) {
            println("refused: ${error.message}")
        } catch (error: Throwable) {
            println("error: $error")
        }
        println("end")
    }
}

private fun answer(verb: String, words: List<String>) {
    when (verb) {
        "selftest" -> selfTest(words, OnnxRuntime(), words.getOrNull(2))
        "broken" -> selfTest(words, Broken(words[2]), null)
        "text" -> open(words).use { bundle ->
            for ((name, tensor) in bundle.prepareText(words[2].decoded())) {
                println("$name ${tensor.shape.toList()} ${tensor.listed()}")
            }
        }
        "unsignable" -> {
            val provider = Security.getProvider("SunEC")
            Security.removeProvider(provider.name)
            answer("selftest", words)
            Security.addProvider(provider)
        }
        "open" -> open(words, words.getOrNull(2)).use { println("opened ${it.model}") }
        "classify" -> open(words).use { bundle ->
            val image = Pixels(words[2].toInt(), words[3].toInt(), 3, File(words[4]).readBytes())
            for (found in bundle.classify(image, 3)) println("${found.number} ${found.score} ${found.label}")
        }
        "prepare" -> {
            val image = readManifest(Folder(File(words[0]))).image ?: error("no image")
            val pixels = Pixels(words[1].toInt(), words[2].toInt(), 3, File(words[3]).readBytes())
            val prepared = prepare(pixels, image)
            val content = ByteArray(prepared.bytes().remaining()).also { prepared.bytes().get(it) }
            File(words[4]).writeBytes(content)
            println(prepared.shape.toList())
        }
        "values" -> {
            val tensor = Tensor(words[0], longArrayOf(words[1].toLong()), File(words[2]).readBytes())
            for (index in 0 until tensor.size) println(tensor[index])
        }
        "json" -> println(shown(parseJson(File(words[0]).readText())))
        "target" -> println(cpuTarget(words[0], File(words[1]).readText()))
        "android" -> android(words[0], words[1])
        "bitmap" -> println(Bitmap(2, 1, intArrayOf(0x00102030, 0xFFFDFCFB.toInt())).toPixels().values.map { it.toInt() and 0xff })
        else -> error("no such verb: $verb")
    }
}

private fun here() = cpuTarget(System.getProperty("os.arch"), File("/proc/cpuinfo").readText())

private fun selfTest(words: List<String>, runtime: Runtime, publicKey: String?) =
    SelfTest(Folder(File(words[0])), ModelStore(File(words[1])), runtime, here(), publicKey, ::println).run()

private fun open(words: List<String>, publicKey: String? = null) =
    Bundle.open(Folder(File(words[0])), ModelStore(File(words[1])), OnnxRuntime(), here(), publicKey)

/** Returns the text of UTF-16 code units in hexadecimal. */
private fun String.decoded() = split(' ').filter { it.isNotEmpty() }.map { it.toInt(16).toChar() }.joinToString("")

private fun Tensor.listed() = (0 until size).map { this[it].toLong() }

private fun android(assets: String, noBackup: String) {
    System.setProperty("assets", assets)
    System.setProperty("noBackup", noBackup)
    SelfTestOnDevice().theBundleProvesItself()
    AndroidBundle.open(Context(File(assets), File(noBackup))).use { println("opened ${it.model}") }
    println("set: ${Os.SET.toSet()}")
}

private fun shown(value: Any?): String = when (value) {
    is Map<*, *> -> value.entries.joinToString(",", "{", "}") { "${shown(it.key)}:${shown(it.value)}" }
    is List<*> -> value.joinToString(",", "[", "]") { shown(it) }
    is String -> value.map { it.code.toString(16) }.joinToString(" ", "'", "'")
    else -> "$value"
}

/** Answers with something that is no answer. */
private class Broken(private val kind: String) : Runtime {
    override val version = "1.99.0"

    override fun open(model: File, entry: SessionEntry) = object : Session {
        override fun run(inputs: Map<String, Tensor>): Map<String, Tensor> = when (kind) {
            "nan" -> mapOf("logits" to tensorOf(longArrayOf(1, 4), FloatArray(4) { Float.NaN }))
            "shape" -> mapOf("logits" to tensorOf(longArrayOf(1, 3), FloatArray(3)))
            else -> emptyMap()
        }

        override fun close() = Unit
    }
}
