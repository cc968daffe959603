// swift-tools-version:5.9
// SPDX-License-Identifier: Apache-2.0
import PackageDescription

let package = Package(
    name: "EdgekdBundle",
    platforms: [.iOS(.v16), .macOS(.v14)],
    products: [
        .library(name: "EdgekdBundle", targets: ["EdgekdBundle"])
    ],
    dependencies: [
        .package(url: "https://github.com/microsoft/onnxruntime-swift-package-manager", from: "1.20.0")
    ],
    targets: [
        .target(
            name: "EdgekdBundle",
            dependencies: [
                .product(name: "onnxruntime", package: "onnxruntime-swift-package-manager")
            ],
            path: "Sources/EdgekdBundle"
        ),
        .testTarget(
            name: "EdgekdBundleTests",
            dependencies: ["EdgekdBundle"],
            path: "Tests/EdgekdBundleTests"
        ),
    ]
)
