// SPDX-License-Identifier: Apache-2.0
// A bundle's manifest, and whether the files are those that it lists.
import CryptoKit
import Foundation

private let pieceBytes: Int = 1 << 20

/// A bundle's manifest, and the way to its files.
public final class ModelBundle {
    /// Where the manifest lies.
    public let folder: URL
    let manifest: Manifest

    /// Names of the classes in the order of the first output; empty if unknown.
    public var labels: [String] { return manifest.labels }

    /// Reads a bundle's manifest; its files are checked when they are asked for.
    ///
    /// - Parameter publicKey: 64 hexadecimal digits: only a bundle that is signed with this key is read.
    /// - Throws: `BundleError`: there is none, or of another form, or it is not signed.
    public init(folder: URL, publicKey: String? = nil) throws {
        let content: Data
        do {
            content = try Data(contentsOf: folder.appendingPathComponent(manifestName))
        } catch {
            throw BundleError("\(manifestName): cannot be read: \(error.localizedDescription)")
        }
        if let key = publicKey {
            try ModelBundle.requireSigned(folder: folder, content: content, publicKey: key)
        }
        self.folder = folder
        self.manifest = try parseManifest(content)
    }

    /// Returns the place of a file once it is known to be what the manifest lists.
    ///
    /// - Throws: `BundleError`: it is missing, changed, not listed, or outside the bundle.
    func wholeFile(_ path: PlainPath) throws -> String {
        let place: String = try self.place(path)
        let listed: [FileRecord] = manifest.files.filter { $0.path.text == path.text }
        guard listed.count == 1 else { throw misfit("files") }
        guard let attributes = try? FileManager.default.attributesOfItem(atPath: place),
            let size = attributes[.size] as? NSNumber
        else { throw BundleError("\(path.text): missing") }
        let found: Int = size.intValue
        guard found == listed[0].bytes else {
            throw BundleError(
                "\(path.text): \(found) bytes, expected \(listed[0].bytes): truncated or changed")
        }
        guard let sha256 = ModelBundle.sha256(place) else { throw BundleError("\(path.text): missing") }
        guard sha256 == listed[0].sha256 else {
            throw BundleError("\(path.text): its sha256 is not that of the manifest: damaged or changed")
        }
        return place
    }

    /// Returns the content of a file once it is known to be what the manifest lists.
    func read(_ path: PlainPath) throws -> Data {
        let place: String = try wholeFile(path)
        guard let content = FileManager.default.contents(atPath: place) else {
            throw BundleError("\(path.text): missing")
        }
        return content
    }

    /// Returns a tensor of the bundle.
    func tensor(name: String, dtype: String, shape: [Int], path: PlainPath) throws -> Tensor {
        let content: Data = try read(path)
        guard let tensor = Tensor(dtype: dtype, shape: shape, data: content) else {
            throw BundleError(
                "\(path.text): \(content.count) bytes are no \(dtype) of shape \(Tensor.told(shape)) for \(name)")
        }
        return tensor
    }

    /// Returns where a file really lies, which is inside the bundle.
    private func place(_ path: PlainPath) throws -> String {
        guard let root = ModelBundle.real(folder.path),
            let place = ModelBundle.real(folder.path + "/" + path.text)
        else { throw BundleError("\(path.text): missing") }
        guard place.hasPrefix(root + "/") else { throw leaving(path.text) }
        var isFolder: ObjCBool = false
        guard FileManager.default.fileExists(atPath: place, isDirectory: &isFolder), !isFolder.boolValue else {
            throw BundleError("\(path.text): missing")
        }
        return place
    }

    /// Returns a path without its links; nil if there is no such file.
    private static func real(_ path: String) -> String? {
        guard let found = realpath(path, nil) else { return nil }
        defer { free(found) }
        return String(cString: found)
    }

    private static func sha256(_ place: String) -> String? {
        guard let handle = FileHandle(forReadingAtPath: place) else { return nil }
        defer { try? handle.close() }
        var digest: SHA256 = SHA256()
        var isAtEnd: Bool = false
        while !isAtEnd {
            let isRead: Bool = autoreleasepool { () -> Bool in
                do {
                    let piece: Data = try handle.read(upToCount: pieceBytes) ?? Data()
                    isAtEnd = piece.isEmpty
                    digest.update(data: piece)
                    return true
                } catch {
                    return false
                }
            }
            guard isRead else { return nil }
        }
        return hexadecimal(Data(digest.finalize()))
    }

    private static func requireSigned(folder: URL, content: Data, publicKey: String) throws {
        let wrong: BundleError = BundleError("\(manifestName): its signature is not of the given key")
        guard let bytes = bytesOf(publicKey), bytes.count == 32,
            let key = try? Curve25519.Signing.PublicKey(rawRepresentation: bytes),
            let signature = try? Data(contentsOf: folder.appendingPathComponent(manifestName + ".sig")),
            key.isValidSignature(signature, for: content)
        else { throw wrong }
    }
}

/// Returns bytes as lower-case hexadecimal digits.
func hexadecimal(_ bytes: Data) -> String {
    var digits: String = ""
    for byte in bytes {
        digits += String(format: "%02x", Int(byte))
    }
    return digits
}

/// Returns the bytes of hexadecimal digits; nil if there are other letters.
private func bytesOf(_ digits: String) -> Data? {
    let letters: [UInt8] = Array(digits.utf8)
    guard letters.count % 2 == 0 else { return nil }
    var bytes: Data = Data()
    for index in stride(from: 0, to: letters.count, by: 2) {
        guard let high = nibble(letters[index]), let low = nibble(letters[index + 1]) else { return nil }
        bytes.append(high << 4 | low)
    }
    return bytes
}

private func nibble(_ letter: UInt8) -> UInt8? {
    switch letter {
    case 0x30...0x39: return letter - 0x30  // 0-9
    case 0x41...0x46: return letter - 0x41 + 10  // A-F
    case 0x61...0x66: return letter - 0x61 + 10  // a-f
    default: return nil
    }
}
