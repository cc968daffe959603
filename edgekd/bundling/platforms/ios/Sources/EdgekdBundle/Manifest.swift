// SPDX-License-Identifier: Apache-2.0
// What this package reads of the manifest, edgekd.bundle/1.
import Foundation

let manifestName: String = "edgekd-bundle.json"
let manifestSchema: String = "edgekd.bundle/1"

/// A bundle that must not be used; the message says why in a line.
public struct BundleError: LocalizedError, CustomStringConvertible {
    public let message: String

    public init(_ message: String) {
        self.message = message
    }

    public var errorDescription: String? { return message }
    public var description: String { return message }
}

/// Says that a key is missing, or of another kind.
func misfit(_ place: String) -> BundleError {
    return BundleError("\(manifestName): \(place) is not as \(manifestSchema) has it")
}

/// Says that a path is none of plain names, or a link leads out.
func leaving(_ path: String) -> BundleError {
    return BundleError("\(path): a path that leaves the bundle")
}

/// A path of plain names, relative to the manifest.
struct PlainPath: Decodable {
    let text: String

    init(_ text: String) throws {
        for name in text.components(separatedBy: "/") {
            guard PlainPath.isPlain(name) else { throw leaving(text) }
        }
        self.text = text
    }

    init(from decoder: Decoder) throws {
        let container: SingleValueDecodingContainer = try decoder.singleValueContainer()
        try self.init(try container.decode(String.self))
    }

    /// Letters, digits, `_`, `-` and `.`, the first of them neither `-` nor `.`.
    private static func isPlain(_ name: String) -> Bool {
        var isFirst: Bool = true
        for byte in name.utf8 {
            switch byte {
            case 0x30...0x39, 0x41...0x5A, 0x61...0x7A, 0x5F:  // 0-9, A-Z, a-z, _
                break
            case 0x2D, 0x2E:  // - and .
                if isFirst { return false }
            default:
                return false
            }
            isFirst = false
        }
        return !isFirst
    }
}

struct Manifest: Decodable {
    let schema: String
    let name: String
    let files: [FileRecord]
    let runtime: RuntimeNeeds
    let inputs: [NamedValue]
    let outputs: [NamedValue]
    let image: ImageContract?
    let text: TextContract?
    let labels: [String]
    let variants: [Variant]
    let targets: [String: Choice]
    let golden: Golden
    let preparation: Preparation

    enum CodingKeys: String, CodingKey {
        case schema, name, files, runtime, inputs, outputs, image, text, labels, variants, targets, golden
        case preparation
    }

    init(from decoder: Decoder) throws {
        let keys: KeyedDecodingContainer<CodingKeys> = try decoder.container(keyedBy: CodingKeys.self)
        schema = try keys.decode(String.self, forKey: .schema)
        name = try keys.decode(String.self, forKey: .name)
        files = try keys.decode([FileRecord].self, forKey: .files)
        runtime = try keys.decode(RuntimeNeeds.self, forKey: .runtime)
        inputs = try keys.decode([NamedValue].self, forKey: .inputs)
        outputs = try keys.decode([NamedValue].self, forKey: .outputs)
        // These may be null, but are there.
        image = try keys.decode(ImageContract?.self, forKey: .image)
        text = try keys.decode(TextContract?.self, forKey: .text)
        labels = try keys.decode([String].self, forKey: .labels)
        variants = try keys.decode([Variant].self, forKey: .variants)
        targets = try keys.decode([String: Choice].self, forKey: .targets)
        golden = try keys.decode(Golden.self, forKey: .golden)
        preparation = try keys.decode(Preparation.self, forKey: .preparation)
    }
}

struct FileRecord: Decodable {
    let path: PlainPath
    let bytes: Int
    let sha256: String

    enum CodingKeys: String, CodingKey {
        case path, bytes, sha256
    }
}

struct RuntimeNeeds: Decodable {
    let onnxruntime: Versions

    enum CodingKeys: String, CodingKey {
        case onnxruntime
    }
}

struct Versions: Decodable {
    let least: String

    enum CodingKeys: String, CodingKey {
        case least
    }
}

/// An input or output of the models.
struct NamedValue: Decodable {
    let name: String

    enum CodingKeys: String, CodingKey {
        case name
    }
}

/// A file of values in little-endian order, row after row.
struct StoredTensor: Decodable {
    let name: String
    let dtype: String
    let shape: [Int]
    let path: PlainPath

    enum CodingKeys: String, CodingKey {
        case name, dtype, shape, path
    }
}

/// A tensor in a file, and the largest absolute difference that passes.
struct ExpectedOutput: Decodable {
    let name: String
    let dtype: String
    let shape: [Int]
    let path: PlainPath
    let tolerance: Double

    enum CodingKeys: String, CodingKey {
        case name, dtype, shape, path, tolerance
    }
}

enum Colour: String, Decodable {
    case rgb = "RGB"
    case bgr = "BGR"
    case gray = "gray"
}

enum Layout: String, Decodable {
    case nchw = "NCHW"
    case nhwc = "NHWC"
}

enum Resize: String, Decodable {
    case coverBicubic = "cover-bicubic"
}

/// How pixels become the input.
struct ImageContract: Decodable {
    let colour: Colour
    let layout: Layout
    let height: Int
    let width: Int
    let mean: [Double]
    let std: [Double]
    let resize: Resize

    enum CodingKeys: String, CodingKey {
        case colour, layout, height, width, mean, std, resize
    }

    var channels: Int { return colour == .gray ? 1 : 3 }
}

/// How a text becomes the inputs.
struct TextContract: Decodable {
    let vocabulary: PlainPath
    let characters: PlainPath
    let unknown: Int
    let first: Int
    let last: Int
    let continuation: String
    let longestWord: Int
    let longest: Int
    let ids: String
    let mask: String?
    let types: String?

    enum CodingKeys: String, CodingKey {
        case vocabulary, characters, unknown, first, last, continuation
        case longestWord = "longest_word"
        case longest, ids, mask, types
    }
}

enum Optimization: String, Decodable {
    case all = "all"
    case extended = "extended"
    case basic = "basic"
    case none = "none"
}

/// What the session is opened with.
struct SessionSettings: Decodable {
    let intraOpNumThreads: Int32
    let intraOpSpinning: Bool
    let optimization: Optimization

    enum CodingKeys: String, CodingKey {
        case intraOpNumThreads = "intra_op_num_threads"
        case intraOpSpinning = "intra_op_spinning"
        case optimization = "graph_optimization_level"
    }
}

struct Variant: Decodable {
    let path: PlainPath
    let session: SessionSettings

    enum CodingKeys: String, CodingKey {
        case path, session
    }
}

/// What a model answers to the golden inputs.
struct Expected: Decodable {
    let outputs: [ExpectedOutput]

    enum CodingKeys: String, CodingKey {
        case outputs
    }
}

/// The model for a target.
struct Choice: Decodable {
    let model: PlainPath
    let expected: Expected

    enum CodingKeys: String, CodingKey {
        case model, expected
    }
}

/// The inputs of the self-test; the first axis of each is the runs.
struct Golden: Decodable {
    let runs: Int
    let inputs: [StoredTensor]

    enum CodingKeys: String, CodingKey {
        case runs, inputs
    }
}

/// Pixels, and the sha256 of the tensor that they become.
struct ImageVector: Decodable {
    let pixels: StoredTensor
    let sha256: String

    enum CodingKeys: String, CodingKey {
        case pixels, sha256
    }
}

/// A text, and the numbers of the tokens that it becomes.
struct TextVector: Decodable {
    let text: String
    let ids: [Int64]

    enum CodingKeys: String, CodingKey {
        case text, ids
    }
}

/// What tests how inputs are prepared.
struct Preparation: Decodable {
    let images: [ImageVector]
    let texts: [TextVector]

    enum CodingKeys: String, CodingKey {
        case images, texts
    }
}

/// Reads a manifest's bytes.
func parseManifest(_ content: Data) throws -> Manifest {
    let object: Any
    do {
        object = try JSONSerialization.jsonObject(with: content, options: [])
    } catch {
        throw BundleError("\(manifestName): cannot be read: \(error.localizedDescription)")
    }
    let found: Any? = (object as? [String: Any])?["schema"]
    let schema: String = (found as? String) ?? "none"
    guard schema == manifestSchema else {
        throw BundleError(
            "\(manifestName): its schema is \(schema); this package reads \(manifestSchema): update the package")
    }
    let manifest: Manifest
    do {
        manifest = try JSONDecoder().decode(Manifest.self, from: content)
    } catch let error as DecodingError {
        throw misfit(placeOf(error))
    }
    try requireSound(manifest)
    return manifest
}

/// Where in the manifest something is missing or of another kind, such as `files.0.path`.
private func placeOf(_ error: DecodingError) -> String {
    var keys: [CodingKey] = []
    switch error {
    case .keyNotFound(let key, let context):
        keys = context.codingPath + [key]
    case .typeMismatch(_, let context):
        keys = context.codingPath
    case .valueNotFound(_, let context):
        keys = context.codingPath
    case .dataCorrupted(let context):
        keys = context.codingPath
    @unknown default:
        break
    }
    var names: [String] = []
    for key in keys {
        if let index = key.intValue {
            names.append(String(index))
        } else {
            names.append(key.stringValue)
        }
    }
    return names.joined(separator: ".")
}

/// Refuses numbers that nothing can be done with.
private func requireSound(_ manifest: Manifest) throws {
    if manifest.inputs.isEmpty { throw misfit("inputs") }
    if manifest.outputs.isEmpty { throw misfit("outputs") }
    if manifest.golden.runs < 1 { throw misfit("golden.runs") }
    if let image = manifest.image {
        let most: Int = 1 << 16
        if image.height < 1 || image.height > most { throw misfit("image.height") }
        if image.width < 1 || image.width > most { throw misfit("image.width") }
        if image.mean.count != image.channels { throw misfit("image.mean") }
        if image.std.count != image.channels || image.std.contains(where: { $0 <= 0 }) { throw misfit("image.std") }
    } else if !manifest.preparation.images.isEmpty {
        throw misfit("image")
    }
    if let text = manifest.text {
        if text.longest < 2 { throw misfit("text.longest") }
    } else if !manifest.preparation.texts.isEmpty {
        throw misfit("text")
    }
}
