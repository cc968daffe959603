// SPDX-License-Identifier: Apache-2.0
package edgekd.bundle

/**
 * Returns the target of a CPU.
 *
 * @param machine as the kernel names it, such as `aarch64`; one without a target comes back as it is.
 * @param cpuinfo text of `/proc/cpuinfo`; a feature counts if every core has it. Without it the oldest of the kind.
 */
fun cpuTarget(machine: String, cpuinfo: String): String {
    val flags = sharedFlags(cpuinfo)
    return when (machine) {
        "aarch64", "arm64" -> when {
            "i8mm" in flags -> "arm64-i8mm"
            "asimddp" in flags -> "arm64-dotprod"
            else -> "arm64"
        }
        "x86_64", "amd64" -> if ("avx_vnni" in flags || "avx512_vnni" in flags) "x86-vnni" else "x86-avx2"
        else -> machine
    }
}

private fun sharedFlags(cpuinfo: String): Set<String> =
    cpuinfo.lineSequence()
        .filter { it.substringBefore(':').trim() in listOf("flags", "Features") && ':' in it }
        .map { it.substringAfter(':').trim().split(Regex("\\s+")).toSet() }
        .reduceOrNull { shared, core -> shared intersect core }
        .orEmpty()
