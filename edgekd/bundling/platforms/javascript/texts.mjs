// SPDX-License-Identifier: Apache-2.0
/**
 * Texts: from characters to token numbers by WordPiece, number for number as where the model was measured.
 *
 * @typedef {import("./manifest.mjs").Text} Text
 * @typedef {{first: number, last: number, action: string, letters: string}} Change What becomes of some characters.
 */

const REPLACEMENT = 0xfffd;

/** The tokenizer of a bundle. */
export class Tokenizer {
  #text;
  #numbers;
  #changes;

  /**
   * @param {Text} text
   * @param {Uint8Array} vocabulary A token a line; the line's number is the token's.
   * @param {Uint8Array} characters What each character becomes, in rising order.
   */
  constructor(text, vocabulary, characters) {
    this.#text = text;
    this.#numbers = new Map(linesOf(vocabulary).map((word, number) => [word, number]));
    this.#changes = linesOf(characters).map(parseChange);
  }

  /**
   * @param {string} text
   * @returns {number[]} Its token numbers, those of begin and end included.
   */
  ids(text) {
    const { first, last, longest } = this.#text;
    const replaced = Array.from(text, (letter) => this.#become(letter)).join("");
    const words = replaced.split(" ").filter((word) => word !== "");
    const found = words.flatMap((word) => this.#pieces(Array.from(word)));
    return [first, ...found.slice(0, longest - 2), last];
  }

  #become(letter) {
    const code = letter.codePointAt(0);
    const whole = code >= 0xd800 && code <= 0xdfff ? REPLACEMENT : code; // half of a pair, without the other half
    const change = this.#changeOf(whole);
    const own = String.fromCodePoint(whole);
    if (change === undefined) return own;
    return change.action === "alone" ? ` ${own} ` : change.letters;
  }

  /** Look a character up; the changes are in rising order. */
  #changeOf(code) {
    let low = 0;
    let high = this.#changes.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#changes[middle].last < code) low = middle + 1;
      else high = middle;
    }
    return this.#changes[low]?.first <= code ? this.#changes[low] : undefined;
  }

  /** Cut a word into the longest tokens there are, from its begin. */
  #pieces(letters) {
    const { unknown, longest_word: longestWord } = this.#text;
    if (letters.length > longestWord) return [unknown];
    const found = [];
    for (let begin = 0; begin < letters.length; ) {
      const end = this.#endOfLongest(letters, begin);
      if (end === begin) return [unknown];
      found.push(this.#numberOf(letters, begin, end));
      begin = end;
    }
    return found;
  }

  #endOfLongest(letters, begin) {
    let end = letters.length;
    while (end > begin && this.#numberOf(letters, begin, end) === undefined) end--;
    return end;
  }

  #numberOf(letters, begin, end) {
    return this.#numbers.get((begin ? this.#text.continuation : "") + letters.slice(begin, end).join(""));
  }
}

/**
 * @param {Text} text
 * @param {number[]} ids
 * @returns {[string, BigInt64Array][]} The names of the model's inputs, with the values of each: one for each token.
 */
export function inputsOf(text, ids) {
  const roles = { ids: ids.map(BigInt), mask: ids.map(() => 1n), types: ids.map(() => 0n) };
  return Object.entries(roles)
    .filter(([role]) => text[role] !== null)
    .map(([role, values]) => [text[role], BigInt64Array.from(values)]);
}

/** A mark of byte order is a character here, and so is all that other languages end a line with. */
function linesOf(bytes) {
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes).split("\n").slice(0, -1);
}

function parseChange(line) {
  const [span, action, ...codes] = line.split(" ");
  const [first, last] = span.split("-").map((code) => Number.parseInt(code, 16));
  const letters = action === "space" ? " " : String.fromCodePoint(...codes.map((code) => Number.parseInt(code, 16)));
  return { first, last, action, letters };
}
