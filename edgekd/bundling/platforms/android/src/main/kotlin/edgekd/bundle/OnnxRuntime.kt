// SPDX-License-Identifier: Apache-2.0
package edgekd.bundle

import ai.onnxruntime.OnnxJavaType
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtSession
import ai.onnxruntime.OrtSession.SessionOptions.OptLevel
import java.io.File

private val KINDS = mapOf(
    "float16" to OnnxJavaType.FLOAT16, "float32" to OnnxJavaType.FLOAT, "float64" to OnnxJavaType.DOUBLE,
    "bool" to OnnxJavaType.BOOL, "int8" to OnnxJavaType.INT8, "int16" to OnnxJavaType.INT16,
    "int32" to OnnxJavaType.INT32, "int64" to OnnxJavaType.INT64, "uint8" to OnnxJavaType.UINT8,
)
private val NAMES = KINDS.entries.associate { (name, kind) -> kind to name }
private val LEVELS = mapOf(
    "all" to OptLevel.ALL_OPT, "extended" to OptLevel.EXTENDED_OPT,
    "basic" to OptLevel.BASIC_OPT, "none" to OptLevel.NO_OPT,
)

/** onnxruntime on the CPU. */
class OnnxRuntime : Runtime {
    private val environment = OrtEnvironment.getEnvironment()

    override val version: String = environment.version

    override fun open(model: File, entry: SessionEntry): Session {
        OrtSession.SessionOptions().use { options ->
            if (entry.intraOpNumThreads > 0) options.setIntraOpNumThreads(entry.intraOpNumThreads)
            options.addConfigEntry("session.intra_op.allow_spinning", if (entry.intraOpSpinning) "1" else "0")
            options.setCPUArenaAllocator(entry.enableCpuMemArena)
            options.setOptimizationLevel(LEVELS.getValue(entry.graphOptimizationLevel))
            return OnnxSession(environment, environment.createSession(model.path, options))
        }
    }
}

private class OnnxSession(private val environment: OrtEnvironment, private val session: OrtSession) : Session {
    override fun run(inputs: Map<String, Tensor>): Map<String, Tensor> {
        val tensors = LinkedHashMap<String, OnnxTensor>()
        try {
            for ((name, tensor) in inputs) {
                tensors[name] =
                    OnnxTensor.createTensor(environment, tensor.bytes(), tensor.shape, KINDS.getValue(tensor.dtype))
            }
            return session.run(tensors).use { result -> result.associate { (name, value) -> name to copied(value) } }
        } finally {
            tensors.values.forEach { it.close() }
        }
    }

    private fun copied(value: Any): Tensor {
        val tensor = value as OnnxTensor
        val content = tensor.byteBuffer
        val bytes = ByteArray(content.remaining())
        content.get(bytes)
        return Tensor(NAMES.getValue(tensor.info.type), tensor.info.shape, bytes)
    }

    override fun close() = session.close()
}
