// SPDX-License-Identifier: Apache-2.0
// The self-test of the bundle that this package lies in, or of the one that EDGEKD_BUNDLE names; with EDGEKD_KEY, 64
// hexadecimal digits, it has to be signed.
import Foundation
import XCTest

@testable import EdgekdBundle

final class SelfTests: XCTestCase {
    private var key: String? {
        return ProcessInfo.processInfo.environment["EDGEKD_KEY"]
    }

    private var folder: URL {
        if let named = ProcessInfo.processInfo.environment["EDGEKD_BUNDLE"] {
            return URL(fileURLWithPath: named, isDirectory: true)
        }
        var place: URL = URL(fileURLWithPath: #filePath)
        for _ in 0..<4 {  // ios/Tests/EdgekdBundleTests/SelfTests.swift
            place = place.deletingLastPathComponent()
        }
        return place
    }

    func testTheBundleIsWholeAndAnswers() {
        var lines: [String] = []
        let passed: Bool = SelfTest.run(folder: folder, publicKey: key) { lines.append($0) }
        print(lines.joined(separator: "\n"))
        XCTAssertTrue(passed, lines.last ?? "")
    }

    func testEachImageBecomesTheSameInput() throws {
        let test: SelfTest = try SelfTest(folder: folder, publicKey: key)
        for number in 0..<test.bundle.manifest.preparation.images.count {
            XCTAssertTrue(try test.imageIsExact(number), "image \(number)")
        }
    }

    func testEachTextBecomesTheSameNumbers() throws {
        let bundle: ModelBundle = try ModelBundle(folder: folder, publicKey: key)
        guard bundle.manifest.text != nil else { return }
        let tokenizer: Tokenizer = try Tokenizer(bundle)
        for (number, vector) in bundle.manifest.preparation.texts.enumerated() {
            XCTAssertEqual(tokenizer.ids(vector.text), vector.ids, "text \(number)")
        }
    }
}
