// SPDX-License-Identifier: Apache-2.0
package edgekd.bundle

private val LINE = Regex("([0-9A-F]{1,6})-([0-9A-F]{1,6}) (drop|space|alone|=((?: [0-9A-F]{1,6})*))")
private const val REPLACEMENT = 0xFFFD
private val SURROGATES = 0xD800..0xDFFF

/** How a text becomes token numbers: WordPiece, to the number as where the model was trained. */
internal class Tokenizer(private val entry: TextEntry, vocabulary: String, characters: String) {
    private val numbers = HashMap<String, Long>()
    private val ranges = characters.lineSequence().filter { it.isNotEmpty() }.map(::range).toList()

    init {
        vocabulary.split('\n').dropLast(1).forEachIndexed { number, token -> numbers[token] = number.toLong() }
        if (ranges.zipWithNext().any { (one, next) -> next.first <= one.last }) refuse()
    }

    /** Returns the token numbers of a text, those of begin and end included. */
    fun ids(text: String): LongArray {
        val found = replaced(text).split(' ').asSequence().filter { it.isNotEmpty() }.flatMap { pieces(it) }
        return longArrayOf(entry.first) + found.take(entry.longest - 2).toList() + entry.last
    }

    /** Returns the inputs that a text makes, a batch of one. */
    fun inputs(text: String): Map<String, Tensor> {
        val ids = ids(text)
        val shape = longArrayOf(1, ids.size.toLong())
        val ones = LongArray(ids.size) { 1 }
        val roles = listOf(entry.ids to ids, entry.mask to ones, entry.types to LongArray(ids.size))
        return roles.mapNotNull { (name, values) -> name?.let { it to tensorOf(shape, values) } }.toMap()
    }

    private fun replaced(text: String): String {
        val result = StringBuilder()
        var at = 0
        while (at < text.length) {
            val found = text.codePointAt(at)
            at += Character.charCount(found)
            val code = if (found in SURROGATES) REPLACEMENT else found
            val range = rangeOf(code)
            when {
                range == null -> result.appendCodePoint(code)
                range.becomes == null -> result.append(' ').appendCodePoint(code).append(' ')
                else -> result.append(range.becomes)
            }
        }
        return result.toString()
    }

    private fun rangeOf(code: Int): Range? {
        val at = ranges.binarySearch { if (it.last < code) -1 else if (it.first > code) 1 else 0 }
        return ranges.getOrNull(at)
    }

    private fun pieces(word: String): List<Long> {
        val codes = word.codePoints().toArray()
        if (codes.size > entry.longestWord) return listOf(entry.unknown)
        val found = ArrayList<Long>()
        var begin = 0
        while (begin < codes.size) {
            val prefix = if (begin > 0) entry.continuation else ""
            val end = (codes.size downTo begin + 1).firstOrNull { prefix + String(codes, begin, it - begin) in numbers }
                ?: return listOf(entry.unknown)
            found.add(numbers.getValue(prefix + String(codes, begin, end - begin)))
            begin = end
        }
        return found
    }

    private fun range(line: String): Range {
        val (first, last, action, codes) = LINE.matchEntire(line)?.destructured ?: refuse()
        val becomes = when (action) {
            "drop" -> ""
            "space" -> " "
            "alone" -> null
            else -> codes.split(' ').drop(1).joinToString("") { String(Character.toChars(point(it))) }
        }
        return Range(point(first), point(last), becomes)
    }

    private fun point(digits: String): Int = digits.toInt(16).takeIf { it <= Character.MAX_CODE_POINT } ?: refuse()

    private fun refuse(): Nothing = throw BundleException("${entry.characters.path} is not as $SCHEMA has it")

    /** What characters become; null is themselves between two blanks. */
    private class Range(val first: Int, val last: Int, val becomes: String?)

    companion object {
        /** Reads the tables of a bundle's tokenizer, once they were checked. */
        fun read(entry: TextEntry, place: Place): Tokenizer =
            Tokenizer(entry, text(place, entry.vocabulary), text(place, entry.characters))

        private fun text(place: Place, file: FileEntry): String = place.read(file).decodeToString()
    }
}
