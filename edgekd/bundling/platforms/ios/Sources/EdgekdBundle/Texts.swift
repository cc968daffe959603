// SPDX-License-Identifier: Apache-2.0
// How a text becomes token numbers: WordPiece, to the number as where the model was trained. Functions are those of
// python/edgekd_bundle/texts.py. A text is a list of code points here: Swift's own strings are compared by canonical
// equivalence, and a vocabulary is not.
import Foundation

private let blank: UInt32 = 0x20

/// What becomes of the characters from `first` to `last`.
private struct Action {
    let first: UInt32
    let last: UInt32
    let isAlone: Bool
    let given: [UInt32]
}

/// The tokenizer of a bundle.
final class Tokenizer {
    private let described: TextContract
    private let continuation: [UInt32]
    private var numbers: [[UInt32]: Int64] = [:]
    private var actions: [Action] = []  // in rising order

    /// - Throws: `BundleError`: the bundle has none, or its files are damaged.
    init(_ bundle: ModelBundle) throws {
        guard let text = bundle.manifest.text else {
            throw BundleError("this bundle's model does not take a text; use run()")
        }
        described = text
        continuation = codes(text.continuation)
        let words: [Data] = linesOf(try bundle.read(text.vocabulary))
        for (number, word) in words.enumerated() {
            numbers[codes(String(decoding: word, as: UTF8.self))] = Int64(number)
        }
        for line in linesOf(try bundle.read(text.characters)) {
            guard readAction(String(decoding: line, as: UTF8.self)) else {
                throw BundleError("\(text.characters.text): no table of characters")
            }
        }
    }

    /// Returns the token numbers of a text, those of begin and end included.
    func ids(_ text: String) -> [Int64] {
        var whole: [UInt32] = []
        for code in codes(text) {
            whole.append(contentsOf: becomes(code))
        }
        var found: [Int64] = []
        for word in whole.split(separator: blank) {
            found.append(contentsOf: pieces(Array(word)))
        }
        let kept: [Int64] = Array(found.prefix(described.longest - 2))
        return [Int64(described.first)] + kept + [Int64(described.last)]
    }

    /// Returns the model's inputs for a text.
    func inputs(_ text: String) -> [String: Tensor] {
        let ids: [Int64] = self.ids(text)
        let shape: [Int] = [1, ids.count]
        var found: [String: Tensor] = [:]
        found[described.ids] = Tensor(ids, shape: shape)
        if let mask = described.mask {
            found[mask] = Tensor([Int64](repeating: 1, count: ids.count), shape: shape)
        }
        if let types = described.types {
            found[types] = Tensor([Int64](repeating: 0, count: ids.count), shape: shape)
        }
        return found
    }

    /// Reads a line `FIRST-LAST ACTION`; false if it is none.
    private func readAction(_ line: String) -> Bool {
        let parts: [String] = line.components(separatedBy: " ")
        let span: [String] = parts[0].components(separatedBy: "-")
        guard parts.count > 1, span.count == 2, let first = UInt32(span[0], radix: 16),
            let last = UInt32(span[1], radix: 16), first <= last, last <= 0x10FFFF
        else { return false }
        var given: [UInt32] = []
        for part in parts.dropFirst(2) {
            guard let code = UInt32(part, radix: 16) else { return false }
            given.append(code)
        }
        switch parts[1] {
        case "space": given = [blank]
        case "drop", "alone", "=": break
        default: return false
        }
        actions.append(Action(first: first, last: last, isAlone: parts[1] == "alone", given: given))
        return true
    }

    /// What a character is replaced by: found by halving, as a table of all of them would be large.
    private func becomes(_ code: UInt32) -> [UInt32] {
        var low: Int = 0
        var high: Int = actions.count
        while low < high {
            let middle: Int = (low + high) / 2
            let action: Action = actions[middle]
            if code < action.first {
                high = middle
            } else if code > action.last {
                low = middle + 1
            } else {
                return action.isAlone ? [blank, code, blank] : action.given
            }
        }
        return [code]
    }

    private func pieces(_ word: [UInt32]) -> [Int64] {
        let unknown: [Int64] = [Int64(described.unknown)]
        if word.count > described.longestWord {
            return unknown
        }
        var found: [Int64] = []
        var begin: Int = 0
        while begin < word.count {
            guard let piece = longest(word, begin) else { return unknown }
            found.append(piece.number)
            begin = piece.end
        }
        return found
    }

    private func longest(_ word: [UInt32], _ begin: Int) -> (end: Int, number: Int64)? {
        let prefix: [UInt32] = begin > 0 ? continuation : []
        for end in stride(from: word.count, to: begin, by: -1) {
            if let number = numbers[prefix + Array(word[begin..<end])] {
                return (end: end, number: number)
            }
        }
        return nil
    }
}

private func codes(_ text: String) -> [UInt32] {
    return text.unicodeScalars.map { $0.value }
}

/// Returns the lines of a text whose last one ends in a line feed, too.
private func linesOf(_ content: Data) -> [Data] {
    let lines: [Data] = content.split(separator: 0x0A, omittingEmptySubsequences: false).map { Data($0) }
    return Array(lines.dropLast())
}
