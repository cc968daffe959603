// SPDX-License-Identifier: Apache-2.0
package edgekd.bundle

/** What is wrong with a bundle, in one line. */
class BundleException(message: String) : Exception(message)
