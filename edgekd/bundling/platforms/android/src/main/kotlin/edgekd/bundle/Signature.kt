// SPDX-License-Identifier: Apache-2.0
package edgekd.bundle

import java.io.IOException
import java.security.GeneralSecurityException
import java.security.KeyFactory
import java.security.NoSuchAlgorithmException
import java.security.Signature
import java.security.spec.X509EncodedKeySpec

private const val SIGNATURE = "$MANIFEST.sig"
private const val ALGORITHM = "Ed25519"
private val DIGITS = Regex("[0-9A-Fa-f]{64}")

// What stands before the 32 bytes of an Ed25519 key in a SubjectPublicKeyInfo (RFC 8410).
private val BEFORE_KEY = bytesOf("302a300506032b6570032100")

/**
 * Finds out whether the manifest's bytes are signed with a key, 64 hexadecimal digits.
 *
 * @throws BundleException they are not, or Java has no Ed25519 here.
 */
internal fun requireSigned(place: Place, manifest: ByteArray, publicKey: String) {
    val isSigned = try {
        DIGITS.matches(publicKey) && isSigned(manifest, place.open(SIGNATURE).use { it.readBytes() }, publicKey)
    } catch (_: NoSuchAlgorithmException) {
        throw BundleException("a signature cannot be checked here: it needs Android 13 (API level 33) or Java 15")
    } catch (_: GeneralSecurityException) {
        false
    } catch (_: IOException) {
        false
    }
    if (!isSigned) throw BundleException("$MANIFEST: its signature is not of the given key")
}

private fun isSigned(manifest: ByteArray, signature: ByteArray, publicKey: String): Boolean {
    val key = KeyFactory.getInstance(ALGORITHM).generatePublic(X509EncodedKeySpec(BEFORE_KEY + bytesOf(publicKey)))
    val verifier = Signature.getInstance(ALGORITHM)
    verifier.initVerify(key)
    verifier.update(manifest)
    return verifier.verify(signature)
}

private fun bytesOf(digits: String): ByteArray = digits.chunked(2).map { it.toInt(16).toByte() }.toByteArray()
