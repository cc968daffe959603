// SPDX-License-Identifier: Apache-2.0
// The model of a bundle that is right on this CPU, open.
import CoreGraphics
import Foundation

#if canImport(OnnxRuntimeBindings)
    import OnnxRuntimeBindings
#else
    import onnxruntime_objc
#endif

/// A class and how probable it is.
public struct Score {
    public let label: String
    public let probability: Double
}

/// A model and how its inputs are made.
public final class Model {
    /// Where it is from.
    public let bundle: ModelBundle
    /// The instruction set that it was chosen for.
    public let target: String
    /// Its file in the bundle.
    public let path: String
    private let environment: ORTEnv
    private let session: ORTSession
    private let outputs: [String]
    private let tokenizer: Tokenizer?

    /// Opens the model that a bundle has for this CPU, once it is known to be whole.
    ///
    /// - Parameters:
    ///   - folder: The bundle.
    ///   - publicKey: 64 hexadecimal digits: only a bundle that is signed with this key is opened.
    /// - Throws: `BundleError`: the bundle is damaged or from the future, onnxruntime too old, or no model is right
    ///   here.
    public convenience init(folder: URL, publicKey: String? = nil) throws {
        let bundle: ModelBundle = try ModelBundle(folder: folder, publicKey: publicKey)
        try requireRuntime(bundle)
        try self.init(bundle: bundle, target: hostTarget())
    }

    /// Checks the file for a target and opens it.
    init(bundle: ModelBundle, target: String) throws {
        let choice: Choice = try chosenModel(bundle, target)
        let place: String = try bundle.wholeFile(choice.model)
        guard let variant = bundle.manifest.variants.first(where: { $0.path.text == choice.model.text }) else {
            throw misfit("variants")
        }
        self.bundle = bundle
        self.target = target
        self.path = choice.model.text
        if bundle.manifest.text != nil {
            self.tokenizer = try Tokenizer(bundle)
        } else {
            self.tokenizer = nil
        }
        setenv("ORT_DISABLE_TELEMETRY", "1", 0)
        do {
            let environment: ORTEnv = try ORTEnv(loggingLevel: ORTLoggingLevel.error)
            let options: ORTSessionOptions = try sessionOptions(variant.session)
            let session: ORTSession = try ORTSession(env: environment, modelPath: place, sessionOptions: options)
            self.outputs = try session.outputNames()
            self.environment = environment
            self.session = session
        } catch {
            throw runtimeError(error)
        }
    }

    /// Returns the outputs by name.
    public func run(_ inputs: [String: Tensor]) throws -> [String: Tensor] {
        do {
            var values: [String: ORTValue] = [:]
            for (name, tensor) in inputs {
                values[name] = try ORTValue(
                    tensorData: NSMutableData(data: tensor.data), elementType: try elementType(tensor.dtype),
                    shape: tensor.shape.map { NSNumber(value: $0) })
            }
            let answers: [String: ORTValue] = try session.run(
                withInputs: values, outputNames: Set(outputs), runOptions: nil)
            var found: [String: Tensor] = [:]
            for (name, answer) in answers {
                found[name] = try tensorOf(answer, name)
            }
            return found
        } catch {
            throw runtimeError(error)
        }
    }

    /// Returns the input that an image makes.
    public func prepare(_ pixels: Pixels) throws -> [String: Tensor] {
        guard let image = bundle.manifest.image else {
            throw BundleError("this bundle's model does not take an image; use run()")
        }
        guard let tensor = prepareImage(pixels, image) else { throw misfit("image") }
        return [bundle.manifest.inputs[0].name: tensor]
    }

    /// Returns the inputs that a text makes.
    public func prepareText(_ text: String) throws -> [String: Tensor] {
        guard let known = tokenizer else {
            throw BundleError("this bundle's model does not take a text; use run()")
        }
        return known.inputs(text)
    }

    /// Returns the most probable classes of an image, the best first.
    public func classify(_ pixels: Pixels, top: Int = 5) throws -> [Score] {
        let first: String = bundle.manifest.outputs[0].name
        guard let logits = try run(try prepare(pixels))[first] else { throw misfit("outputs") }
        return scores(logits, top: top)
    }

    /// Returns the most probable classes of an image, the best first.
    public func classify(_ image: CGImage, top: Int = 5) throws -> [Score] {
        guard let pixels = Pixels(image) else { throw BundleError("this image cannot be drawn") }
        return try classify(pixels, top: top)
    }

    /// Returns the most probable classes of one sample's logits by softmax; equal ones by class number.
    public func scores(_ logits: Tensor, top: Int = 5) -> [Score] {
        let values: [Double] = logits.doubles
        let largest: Double = values.max() ?? 0
        let powers: [Double] = values.map { exp($0 - largest) }
        var total: Double = 0
        for power in powers {
            total += power
        }
        let labels: [String] = bundle.labels
        let order: [Int] = Array(0..<values.count).sorted { (one: Int, other: Int) -> Bool in
            return values[one] == values[other] ? one < other : values[one] > values[other]
        }
        var best: [Score] = []
        for number in order.prefix(max(top, 0)) {
            let label: String = number < labels.count ? labels[number] : String(number)
            best.append(Score(label: label, probability: powers[number] / total))
        }
        return best
    }
}

/// Refuses an onnxruntime that does not read the models.
func requireRuntime(_ bundle: ModelBundle) throws {
    let least: String = bundle.manifest.runtime.onnxruntime.least
    let version: String = runtimeVersion()
    if numbers(version).lexicographicallyPrecedes(numbers(least)) {
        throw BundleError("onnxruntime \(version) is too old for these models, which need \(least)")
    }
}

/// Returns the version of onnxruntime; some say that it may be nil.
func runtimeVersion() -> String {
    let version: String? = ORTVersion()
    return version ?? "0"
}

/// Returns the model that is right on a target.
func chosenModel(_ bundle: ModelBundle, _ target: String) throws -> Choice {
    guard let choice = bundle.manifest.targets[target] else {
        throw BundleError("no model in this bundle is right on \(target)")
    }
    return choice
}

private func numbers(_ version: String) -> [Int] {
    let release: String = version.components(separatedBy: "+")[0]
    var found: [Int] = []
    for part in release.components(separatedBy: ".") {
        if let number = Int(part) { found.append(number) }
    }
    return found
}

/// The memory arena, which has no switch in onnxruntime's Objective-C interface, stays as onnxruntime has it.
private func sessionOptions(_ settings: SessionSettings) throws -> ORTSessionOptions {
    let options: ORTSessionOptions = try ORTSessionOptions()
    try options.setIntraOpNumThreads(settings.intraOpNumThreads)
    switch settings.optimization {
    case .all: try options.setGraphOptimizationLevel(ORTGraphOptimizationLevel.all)
    case .extended: try options.setGraphOptimizationLevel(ORTGraphOptimizationLevel.extended)
    case .basic: try options.setGraphOptimizationLevel(ORTGraphOptimizationLevel.basic)
    case .none: try options.setGraphOptimizationLevel(ORTGraphOptimizationLevel.none)
    }
    if !settings.intraOpSpinning {
        try options.addConfigEntry(withKey: "session.intra_op.allow_spinning", value: "0")
    }
    return options
}

private func elementType(_ dtype: String) throws -> ORTTensorElementDataType {
    switch dtype {
    case "float32": return ORTTensorElementDataType.float
    case "int8": return ORTTensorElementDataType.int8
    case "uint8": return ORTTensorElementDataType.uInt8
    case "int32": return ORTTensorElementDataType.int32
    case "uint32": return ORTTensorElementDataType.uInt32
    case "int64": return ORTTensorElementDataType.int64
    case "uint64": return ORTTensorElementDataType.uInt64
    default: throw BundleError("onnxruntime's Objective-C interface has no tensors of \(dtype)")
    }
}

/// Copies an answer: its memory belongs to onnxruntime.
private func tensorOf(_ value: ORTValue, _ name: String) throws -> Tensor {
    let info: ORTTensorTypeAndShapeInfo = try value.tensorTypeAndShapeInfo()
    let dtype: String
    switch info.elementType {
    case ORTTensorElementDataType.float: dtype = "float32"
    case ORTTensorElementDataType.int8: dtype = "int8"
    case ORTTensorElementDataType.uInt8: dtype = "uint8"
    case ORTTensorElementDataType.int32: dtype = "int32"
    case ORTTensorElementDataType.uInt32: dtype = "uint32"
    case ORTTensorElementDataType.int64: dtype = "int64"
    case ORTTensorElementDataType.uInt64: dtype = "uint64"
    default: throw BundleError("output \(name) is of a kind that onnxruntime's Objective-C interface has not")
    }
    let content: NSMutableData = try value.tensorData()
    let copied: Data = Data(bytes: content.bytes, count: content.length)
    let shape: [Int] = info.shape.map { $0.intValue }
    guard let tensor = Tensor(dtype: dtype, shape: shape, data: copied) else {
        throw BundleError("output \(name) does not fill its shape \(Tensor.told(shape))")
    }
    return tensor
}

private func runtimeError(_ error: Error) -> BundleError {
    if let known = error as? BundleError { return known }
    return BundleError("onnxruntime: \(error.localizedDescription)")
}
