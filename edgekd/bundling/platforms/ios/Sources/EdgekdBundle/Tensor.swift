// SPDX-License-Identifier: Apache-2.0
// The values of an input or output.
import Foundation

/// Values in little-endian order, row after row.
public struct Tensor {
    /// The name of the kind of its values, as numpy has it, such as `float32`.
    public let dtype: String
    public let shape: [Int]
    public let data: Data

    /// nil if the bytes do not fill the shape, or the kind is not known here.
    public init?(dtype: String, shape: [Int], data: Data) {
        guard let size = Tensor.bytes(dtype) else { return nil }
        var count: Int = size
        for extent in shape {
            guard extent >= 0 else { return nil }
            let product = count.multipliedReportingOverflow(by: extent)
            guard !product.overflow else { return nil }
            count = product.partialValue
        }
        guard count == data.count else { return nil }
        self.dtype = dtype
        self.shape = shape
        self.data = data
    }

    /// nil if the values do not fill the shape.
    public init?(_ values: [Float], shape: [Int]) {
        self.init(dtype: "float32", shape: shape, data: values.withUnsafeBytes { Data($0) })
    }

    /// nil if the values do not fill the shape.
    public init?(_ values: [Int64], shape: [Int]) {
        self.init(dtype: "int64", shape: shape, data: values.withUnsafeBytes { Data($0) })
    }

    /// The values in double precision.
    public var doubles: [Double] {
        let size: Int = Tensor.bytes(dtype) ?? 1
        var found: [Double] = []
        found.reserveCapacity(data.count / size)
        data.withUnsafeBytes { (bytes: UnsafeRawBufferPointer) -> Void in
            for offset in stride(from: 0, to: bytes.count, by: size) {
                switch dtype {
                case "float32": found.append(Double(bytes.loadUnaligned(fromByteOffset: offset, as: Float.self)))
                case "int8": found.append(Double(bytes.loadUnaligned(fromByteOffset: offset, as: Int8.self)))
                case "int32": found.append(Double(bytes.loadUnaligned(fromByteOffset: offset, as: Int32.self)))
                case "uint32": found.append(Double(bytes.loadUnaligned(fromByteOffset: offset, as: UInt32.self)))
                case "int64": found.append(Double(bytes.loadUnaligned(fromByteOffset: offset, as: Int64.self)))
                case "uint64": found.append(Double(bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self)))
                default: found.append(Double(bytes[offset]))
                }
            }
        }
        return found
    }

    /// Returns one element of the first axis.
    func element(_ index: Int) -> Tensor? {
        guard let count = shape.first, index >= 0, index < count else { return nil }
        let size: Int = data.count / count
        let begin: Int = data.startIndex + index * size
        let part: Data = data.subdata(in: begin..<(begin + size))
        return Tensor(dtype: dtype, shape: Array(shape.dropFirst()), data: part)
    }

    /// A shape in words, such as `(1, 10)`.
    static func told(_ shape: [Int]) -> String {
        return "(" + shape.map { String($0) }.joined(separator: ", ") + ")"
    }

    /// What onnxruntime's Objective-C interface has.
    private static func bytes(_ dtype: String) -> Int? {
        switch dtype {
        case "int8", "uint8": return 1
        case "float32", "int32", "uint32": return 4
        case "int64", "uint64": return 8
        default: return nil
        }
    }
}
