// SPDX-License-Identifier: Apache-2.0
// How an image becomes the input, to the bit as where the model was trained and judged. Functions and their order of
// operations are those of python/edgekd_bundle/images.py, line by line. Swift does not fuse multiply and add.
import CoreGraphics
import Foundation

private let bits: Int = 22  // of a weight behind the point
private let a: Double = -0.5

/// An image: height x width x channels, row after row.
public struct Pixels {
    public let height: Int
    public let width: Int
    let channels: Int
    let values: [UInt8]

    /// RGB; nil unless there are height x width x 3 values, and at least one pixel.
    public init?(height: Int, width: Int, rgb: [UInt8]) {
        guard height > 0, width > 0, height <= 1 << 16, width <= 1 << 16, rgb.count == height * width * 3 else {
            return nil
        }
        self.init(height: height, width: width, channels: 3, values: rgb)
    }

    init(height: Int, width: Int, channels: Int, values: [UInt8]) {
        self.height = height
        self.width = width
        self.channels = channels
        self.values = values
    }

    /// The pixels of an image in its own colours, without a turn; those that are transparent lie on black. nil if it
    /// cannot be drawn.
    public init?(_ image: CGImage) {
        let height: Int = image.height
        let width: Int = image.width
        guard height > 0, width > 0, height <= 1 << 16, width <= 1 << 16 else { return nil }
        guard let drawn = Pixels.context(image) else { return nil }
        drawn.draw(image, in: CGRect(x: 0, y: 0, width: width, height: height))
        guard let data = drawn.data else { return nil }
        let bytes: UnsafeRawBufferPointer = UnsafeRawBufferPointer(start: data, count: drawn.bytesPerRow * height)
        var values: [UInt8] = []
        values.reserveCapacity(height * width * 3)
        withExtendedLifetime(drawn) {
            for y in 0..<height {
                for x in 0..<width {
                    let offset: Int = y * drawn.bytesPerRow + x * 4
                    values.append(bytes[offset])
                    values.append(bytes[offset + 1])
                    values.append(bytes[offset + 2])
                }
            }
        }
        self.init(height: height, width: width, channels: 3, values: values)
    }

    /// Returns a context of an image's size, in its own colour space where that is one of RGB: nothing is converted.
    private static func context(_ image: CGImage) -> CGContext? {
        var spaces: [CGColorSpace] = []
        if let own = image.colorSpace, own.model == .rgb { spaces.append(own) }
        if let common = CGColorSpace(name: CGColorSpace.sRGB) { spaces.append(common) }
        for space in spaces {
            let context: CGContext? = CGContext(
                data: nil, width: image.width, height: image.height, bitsPerComponent: 8, bytesPerRow: 0,
                space: space, bitmapInfo: CGImageAlphaInfo.noneSkipLast.rawValue)
            if let made = context { return made }
        }
        return nil
    }
}

/// Turns pixels into the input: float32, with a batch axis of 1.
func prepareImage(_ given: Pixels, _ image: ImageContract) -> Tensor? {
    var pixels: Pixels = given
    if image.colour == .gray {
        pixels = gray(pixels)
    }
    pixels = cover(pixels, image.height, image.width)
    let channels: Int = pixels.channels
    var divisors: [Float] = []
    var offsets: [Float] = []
    for channel in 0..<channels {
        let mean: Float = Float(image.mean[channel])
        let std: Float = Float(image.std[channel])
        divisors.append(std * Float(255))
        offsets.append(mean / std)
    }
    let area: Int = image.height * image.width
    var values: [Float] = [Float](repeating: 0, count: area * channels)
    for position in 0..<area {
        for channel in 0..<channels {
            let source: Int = image.colour == .bgr ? channels - 1 - channel : channel
            let pixel: Float = Float(pixels.values[position * channels + source])
            let value: Float = pixel / divisors[channel] - offsets[channel]
            if image.layout == .nchw {
                values[channel * area + position] = value
            } else {
                values[position * channels + channel] = value
            }
        }
    }
    if image.layout == .nchw {
        return Tensor(values, shape: [1, channels, image.height, image.width])
    }
    return Tensor(values, shape: [1, image.height, image.width, channels])
}

private func gray(_ pixels: Pixels) -> Pixels {
    var values: [UInt8] = []
    values.reserveCapacity(pixels.height * pixels.width)
    for offset in stride(from: 0, to: pixels.values.count, by: 3) {
        let red: UInt32 = UInt32(pixels.values[offset])
        let green: UInt32 = UInt32(pixels.values[offset + 1])
        let blue: UInt32 = UInt32(pixels.values[offset + 2])
        let sum: UInt32 = 19595 * red + 38470 * green + 7471 * blue + 32768
        values.append(UInt8(sum >> 16))
    }
    return Pixels(height: pixels.height, width: pixels.width, channels: 1, values: values)
}

/// Scales an image until it just covers the size, and cuts out the middle.
private func cover(_ pixels: Pixels, _ height: Int, _ width: Int) -> Pixels {
    let tall: Int = pixels.height
    let wide: Int = pixels.width
    let channels: Int = pixels.channels
    if tall == height && wide == width {
        return pixels
    }
    let scale: Double = max(Double(height) / Double(tall), Double(width) / Double(wide))
    let rows: Int = max(height, Int((Double(tall) * scale).rounded(.toNearestOrEven)))
    let columns: Int = max(width, Int((Double(wide) * scale).rounded(.toNearestOrEven)))
    let broad: [UInt8] = resize(pixels.values, outer: tall, before: wide, after: columns, inner: channels)
    let scaled: [UInt8] = resize(broad, outer: 1, before: tall, after: rows, inner: columns * channels)
    let top: Int = (rows - height) / 2
    let left: Int = (columns - width) / 2
    var middle: [UInt8] = []
    middle.reserveCapacity(height * width * channels)
    for y in top..<(top + height) {
        let begin: Int = (y * columns + left) * channels
        middle.append(contentsOf: scaled[begin..<(begin + width * channels)])
    }
    return Pixels(height: height, width: width, channels: channels, values: middle)
}

/// Scales the middle axis of outer x before x inner, bicubic.
private func resize(_ pixels: [UInt8], outer: Int, before: Int, after: Int, inner: Int) -> [UInt8] {
    if before == after {
        return pixels
    }
    let filters: [Filter] = weights(before, after)
    var scaled: [UInt8] = [UInt8](repeating: 0, count: outer * after * inner)
    for block in 0..<outer {
        for x in 0..<after {
            let filter: Filter = filters[x]
            for place in 0..<inner {
                var total: Int = 1 << (bits - 1)
                for tap in 0..<filter.weights.count {
                    let offset: Int = (block * before + filter.first + tap) * inner + place
                    total += Int(pixels[offset]) * filter.weights[tap]
                }
                scaled[(block * after + x) * inner + place] = UInt8(min(max(total >> bits, 0), 255))
            }
        }
    }
    return scaled
}

/// For an output pixel the first input pixel, and the weights from there on.
private struct Filter {
    let first: Int
    let weights: [Int]
}

private func weights(_ extentIn: Int, _ extentOut: Int) -> [Filter] {
    let scale: Double = Double(extentIn) / Double(extentOut)
    let widened: Double = max(scale, 1.0)
    var found: [Filter] = []
    for x in 0..<extentOut {
        let centre: Double = (Double(x) + 0.5) * scale
        let first: Int = max(0, Int(centre - 2 * widened + 0.5))
        let last: Int = min(extentIn, Int(centre + 2 * widened + 0.5))
        var shares: [Double] = []
        for i in first..<last {
            shares.append(keys((Double(i) - centre + 0.5) * (1 / widened)))
        }
        var total: Double = 0.0
        for share in shares {
            total += share
        }
        var whole: [Int] = []
        for share in shares {
            let half: Double = share < 0 ? -0.5 : 0.5
            whole.append(Int(half + share / total * Double(1 << bits)))
        }
        found.append(Filter(first: first, weights: whole))
    }
    return found
}

private func keys(_ u: Double) -> Double {
    let t: Double = abs(u)
    if t < 1 {
        return ((a + 2) * t - (a + 3)) * t * t + 1
    }
    if t < 2 {
        return (((t - 5) * t + 8) * t - 4) * a
    }
    return 0.0
}
