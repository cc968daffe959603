// SPDX-License-Identifier: Apache-2.0
package edgekd.bundle

private val PLAIN = Regex("[A-Za-z0-9_][A-Za-z0-9_.-]*")
private val SHA256 = Regex("[0-9a-f]{64}")

/** A value of the manifest and the place where it stands; every way to take it refuses what is of another kind. */
internal class Field(private val value: Any?, private val where: String) {
    fun refuse(): Nothing = throw BundleException("$MANIFEST: $where is not as $SCHEMA has it")

    operator fun get(key: String): Field {
        val members = value as? Map<*, *> ?: refuse()
        val member = Field(members[key], inside(key))
        return if (members.containsKey(key)) member else member.refuse()
    }

    fun members(): Map<String, Field> {
        val members = value as? Map<*, *> ?: refuse()
        return members.entries.associate { (key, member) -> key as String to Field(member, inside(key)) }
    }

    fun list(): List<Field> {
        val elements = value as? List<*> ?: refuse()
        return elements.mapIndexed { index, element -> Field(element, inside("$index")) }
    }

    fun orNull(): Field? = if (value == null) null else this

    fun text(): String = value as? String ?: refuse()

    fun truth(): Boolean = value as? Boolean ?: refuse()

    fun whole(least: Long = 0): Long = (value as? Long)?.takeIf { it >= least } ?: refuse()

    fun int(least: Int = 0): Int = whole(least.toLong()).takeIf { it <= Int.MAX_VALUE }?.toInt() ?: refuse()

    fun number(): Double = (value as? Number)?.toDouble()?.takeIf { !it.isNaN() && !it.isInfinite() } ?: refuse()

    fun oneOf(known: Collection<String>): String = text().takeIf { it in known } ?: refuse()

    fun sha256(): String = text().takeIf { SHA256.matches(it) } ?: refuse()

    fun path(): String {
        val path = text()
        if (!path.split('/').all { PLAIN.matches(it) }) throw BundleException("$path: a path that leaves the bundle")
        return path
    }

    private fun inside(name: String): String = if (where.isEmpty()) name else "$where.$name"
}
