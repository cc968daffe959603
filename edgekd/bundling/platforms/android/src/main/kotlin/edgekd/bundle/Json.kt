// SPDX-License-Identifier: Apache-2.0
package edgekd.bundle

private const val DEEPEST = 64
private const val NUMBER = "-?(0|[1-9][0-9]*)(\\.[0-9]+)?([eE][+-]?[0-9]+)?"

/**
 * Reads a JSON text (RFC 8259): Map, List, String, Long, Double, Boolean or null.
 *
 * @throws IllegalArgumentException it is none, or lists lie in lists too deep.
 */
internal fun parseJson(text: String): Any? = JsonReader(text).whole()

private class JsonReader(private val text: String) {
    private var at = 0
    private val number = Regex(NUMBER)

    fun whole(): Any? {
        val value = value(0)
        skipSpace()
        if (at != text.length) wrong("the end")
        return value
    }

    private fun value(depth: Int): Any? {
        if (depth > DEEPEST) wrong("less depth")
        skipSpace()
        return when (peek()) {
            '{' -> members(depth)
            '[' -> elements(depth)
            '"' -> string()
            't' -> word("true", true)
            'f' -> word("false", false)
            'n' -> word("null", null)
            else -> number()
        }
    }

    private fun members(depth: Int): Map<String, Any?> {
        val members = LinkedHashMap<String, Any?>()
        separated('}') {
            if (peek() != '"') wrong("a key")
            val key = string()
            skipSpace()
            take(':')
            members[key] = value(depth + 1)
        }
        return members
    }

    private fun elements(depth: Int): List<Any?> {
        val elements = ArrayList<Any?>()
        separated(']') { elements.add(value(depth + 1)) }
        return elements
    }

    private fun separated(end: Char, item: () -> Unit) {
        at++
        skipSpace()
        if (peek() == end) {
            at++
            return
        }
        while (true) {
            skipSpace()
            item()
            skipSpace()
            if (peek() == end) break
            take(',')
        }
        at++
    }

    private fun string(): String {
        take('"')
        val content = StringBuilder()
        while (true) {
            val letter = peek() ?: wrong("a quotation mark")
            at++
            when {
                letter == '"' -> return content.toString()
                letter == '\\' -> content.append(escaped())
                letter < ' ' -> wrong("no control character")
                else -> content.append(letter)
            }
        }
    }

    private fun escaped(): Char {
        val letter = peek()
        at++
        return when (letter) {
            '"', '\\', '/' -> letter
            'b' -> '\b'
            'f' -> '\u000c'
            'n' -> '\n'
            'r' -> '\r'
            't' -> '\t'
            'u' -> unicode()
            else -> wrong("an escape")
        }
    }

    private fun unicode(): Char {
        val digits = text.substring(at, minOf(at + 4, text.length))
        if (!digits.matches(Regex("[0-9A-Fa-f]{4}"))) wrong("four digits")
        at += 4
        return digits.toInt(16).toChar()
    }

    private fun number(): Any {
        val found = number.find(text, at)
        if (found == null || found.range.first != at) wrong("a value")
        at = found.range.last + 1
        return found.value.toLongOrNull() ?: found.value.toDouble()
    }

    private fun <T> word(word: String, meaning: T): T {
        if (!text.startsWith(word, at)) wrong("a value")
        at += word.length
        return meaning
    }

    private fun skipSpace() {
        while (at < text.length && text[at] in " \t\r\n") at++
    }

    private fun peek(): Char? = text.getOrNull(at)

    private fun take(letter: Char) {
        if (peek() != letter) wrong("'$letter'")
        at++
    }

    private fun wrong(expected: String): Nothing =
        throw IllegalArgumentException("no JSON: expected $expected at character $at")
}
