// SPDX-License-Identifier: Apache-2.0
// Proves that a bundle is whole, and that its model answers here as it did where it was made.
import CryptoKit
import Foundation

public struct SelfTest {
    let bundle: ModelBundle

    /// Runs the whole test, says a line for each check, and at the end `PASS`, or `FAIL: why`.
    ///
    /// - Returns: Whether it passed.
    public static func run(folder: URL, publicKey: String? = nil, say: (String) -> Void) -> Bool {
        do {
            let test: SelfTest = try SelfTest(folder: folder, publicKey: publicKey)
            try test.test(say)
        } catch {
            say("FAIL: \(error.localizedDescription)")
            return false
        }
        say("PASS")
        return true
    }

    init(folder: URL, publicKey: String?) throws {
        bundle = try ModelBundle(folder: folder, publicKey: publicKey)
    }

    /// Says a line for each check; throws at the first that fails.
    func test(_ say: (String) -> Void) throws {
        let manifest: Manifest = bundle.manifest
        let least: String = manifest.runtime.onnxruntime.least
        say("manifest: \(manifest.name), \(manifest.schema), onnxruntime \(runtimeVersion()) (least \(least))")
        try requireRuntime(bundle)
        for file in manifest.files {
            _ = try bundle.wholeFile(file.path)
        }
        say("files: \(manifest.files.count) of \(manifest.files.count) are whole")
        let target: String = hostTarget()
        let path: String = try chosenModel(bundle, target).model.text
        say("target: \(target), model \(path)")
        try checkPreparation(say)
        try checkAnswers(target, say)
    }

    /// Prepares the test images and texts, and compares.
    private func checkPreparation(_ say: (String) -> Void) throws {
        let images: [ImageVector] = bundle.manifest.preparation.images
        for number in 0..<images.count {
            guard try imageIsExact(number) else {
                throw BundleError("preparation: image \(number) becomes another input here")
            }
        }
        let texts: [TextVector] = bundle.manifest.preparation.texts
        if !texts.isEmpty {
            let tokenizer: Tokenizer = try Tokenizer(bundle)
            for (number, vector) in texts.enumerated() {
                guard tokenizer.ids(vector.text) == vector.ids else {
                    throw BundleError("preparation: text \(number) becomes another input here")
                }
            }
        }
        let count: Int = images.count + texts.count
        if count > 0 {
            say("preparation: \(count) of \(count) vectors are exact")
        }
    }

    /// Whether a test image becomes the input that it became where the bundle was made.
    func imageIsExact(_ number: Int) throws -> Bool {
        let place: String = "preparation.images.\(number).pixels"
        let vector: ImageVector = bundle.manifest.preparation.images[number]
        let stored: StoredTensor = vector.pixels
        let tensor: Tensor = try bundle.tensor(
            name: place, dtype: stored.dtype, shape: stored.shape, path: stored.path)
        guard tensor.dtype == "uint8", tensor.shape.count == 3, tensor.shape[2] == 3,
            let pixels = Pixels(height: tensor.shape[0], width: tensor.shape[1], rgb: [UInt8](tensor.data))
        else { throw misfit(place) }
        guard let image = bundle.manifest.image, let prepared = prepareImage(pixels, image) else {
            throw misfit("image")
        }
        return hexadecimal(Data(SHA256.hash(data: prepared.data))) == vector.sha256
    }

    /// Runs the golden inputs, and compares.
    private func checkAnswers(_ target: String, _ say: (String) -> Void) throws {
        let model: Model = try Model(bundle: bundle, target: target)
        let runs: Int = bundle.manifest.golden.runs
        var inputs: [String: Tensor] = [:]
        for stored in bundle.manifest.golden.inputs {
            inputs[stored.name] = try bundle.tensor(
                name: stored.name, dtype: stored.dtype, shape: stored.shape, path: stored.path)
        }
        var answers: [[String: Tensor]] = []
        for run in 0..<runs {
            var fed: [String: Tensor] = [:]
            for (name, values) in inputs {
                guard let input = values.element(run) else { throw misfit("golden.inputs") }
                fed[name] = input
            }
            answers.append(try model.run(fed))
        }
        for output in try chosenModel(bundle, target).expected.outputs {
            let difference: Double = try apart(output, answers)
            let allowed: String = String(format: "%.3g", output.tolerance)
            let seen: String = String(format: "%.3g", difference)
            let said: String = "\(output.name) differs by \(seen) at most, \(allowed) is allowed"
            guard difference <= output.tolerance else { throw BundleError("golden: \(said)") }  // NaN, too
            say("golden: \(runs) runs, \(said)")
        }
    }

    /// The largest absolute difference between an output and what it is expected to be; NaN if there is one.
    private func apart(_ output: ExpectedOutput, _ answers: [[String: Tensor]]) throws -> Double {
        let expected: Tensor = try bundle.tensor(
            name: output.name, dtype: output.dtype, shape: output.shape, path: output.path)
        var found: [Double] = []
        for answer in answers {
            guard let tensor = answer[output.name] else { throw misfit("outputs") }
            let shape: [Int] = [answers.count] + tensor.shape
            guard shape == expected.shape else {
                throw BundleError(
                    "golden: \(output.name) has shape \(Tensor.told(shape)), expected \(Tensor.told(expected.shape))")
            }
            found.append(contentsOf: tensor.doubles)
        }
        let wanted: [Double] = expected.doubles
        var largest: Double = 0
        for index in 0..<wanted.count {
            let difference: Double = abs(found[index] - wanted[index])
            if difference.isNaN { return difference }
            largest = max(largest, difference)
        }
        return largest
    }
}
