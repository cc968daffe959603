// SPDX-License-Identifier: Apache-2.0
package edgekd.bundle

/** A class and how sure the model is of it, 0 to 1; without names its label is its number. */
class Score(val label: String, val number: Int, val score: Double)

/** Returns the classes of the highest scores, made of logits by softmax; of equal ones the lower number first. */
internal fun topScores(logits: Tensor, labels: List<String>, top: Int): List<Score> {
    val values = DoubleArray(logits.size) { logits[it] }
    val highest = values.maxOrNull() ?: return emptyList()
    val exponentials = values.map { Math.exp(it - highest) }
    val sum = exponentials.sum()
    return exponentials
        .mapIndexed { number, value -> Score(labels.getOrElse(number) { "$number" }, number, value / sum) }
        .sortedWith(compareByDescending<Score> { it.score }.thenBy { it.number })
        .take(top)
}
