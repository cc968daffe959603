// SPDX-License-Identifier: Apache-2.0
// Which instruction set this CPU has, as far as 8-bit kernels are concerned.
import Foundation

/// Returns the name of this CPU's target: the oldest of its kind where the system does not tell its flags.
public func hostTarget() -> String {
    #if arch(arm64)
        if hasFeature("hw.optional.arm.FEAT_I8MM") { return "arm64-i8mm" }
        if hasFeature("hw.optional.arm.FEAT_DotProd") { return "arm64-dotprod" }
        return "arm64"
    #else
        return "x86-avx2"
    #endif
}

private func hasFeature(_ name: String) -> Bool {
    var value: Int32 = 0
    var size: Int = MemoryLayout<Int32>.size
    return sysctlbyname(name, &value, &size, nil, 0) == 0 && value == 1
}
