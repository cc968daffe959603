// SPDX-License-Identifier: Apache-2.0
// Signatures of a manifest, Ed25519 (RFC 8032), where there is OpenSSL: EDGEKD_OPENSSL is defined then.
#pragma once

#include <string>

#include "error.hpp"

#if defined(EDGEKD_OPENSSL)
#include <openssl/evp.h>

#include <array>
#include <cstddef>
#include <memory>
#include <string_view>
#endif

namespace edgekd::detail {

#if defined(EDGEKD_OPENSSL)

// Returns the value of a hexadecimal digit, or 16.
inline std::size_t digit_value(char letter) {
  constexpr std::string_view digits = "0123456789abcdef";
  const bool upper = letter >= 'A' && letter <= 'F';
  const std::size_t place = digits.find(upper ? static_cast<char>(letter - 'A' + 'a') : letter);
  return place == std::string_view::npos ? 16 : place;
}

// Returns whether a signature is that of a content; `public_key` is 64 hexadecimal digits.
inline bool is_signed(const std::string& content, const std::string& signature, const std::string& public_key) {
  std::array<unsigned char, 32> raw{};
  if (public_key.size() != 2 * raw.size()) return false;
  for (std::size_t i = 0; i < raw.size(); ++i) {
    const std::size_t high = digit_value(public_key[2 * i]);
    const std::size_t low = digit_value(public_key[2 * i + 1]);
    if (high > 15 || low > 15) return false;
    raw[i] = static_cast<unsigned char>(high << 4 | low);
  }
  const std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)> key(
      EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, nullptr, raw.data(), raw.size()), &EVP_PKEY_free);
  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(), &EVP_MD_CTX_free);
  if (!key || !context) return false;
  if (EVP_DigestVerifyInit(context.get(), nullptr, nullptr, nullptr, key.get()) != 1) return false;
  const auto bytes = [](const std::string& text) { return reinterpret_cast<const unsigned char*>(text.data()); };
  return EVP_DigestVerify(context.get(), bytes(signature), signature.size(), bytes(content), content.size()) == 1;
}

#else

inline bool is_signed(const std::string&, const std::string&, const std::string&) {
  throw Error("a signature cannot be checked here: this program was built without OpenSSL");
}

#endif

}  // namespace edgekd::detail
