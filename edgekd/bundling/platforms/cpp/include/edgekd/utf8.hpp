// SPDX-License-Identifier: Apache-2.0
// UTF-8 and code points.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace edgekd::detail {

struct Sequence {
  std::size_t length = 1;
  bool whole = false;
};

// Returns the UTF-8 sequence that a text begins with, or as much of one as is well-formed, but at least one byte
// (Unicode, table 3-7, and "U+FFFD substitution of maximal subparts").
inline Sequence utf8_sequence(std::string_view text) {
  const auto byte = [&](std::size_t at) { return at < text.size() ? static_cast<unsigned char>(text[at]) : 0u; };
  const unsigned first = byte(0);
  if (first < 0x80) return {1, true};
  if (first < 0xc2 || first > 0xf4) return {1, false};
  const std::size_t wanted = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  unsigned least = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;  // nothing longer than it need be
  unsigned most = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;   // no surrogates, nothing beyond U+10FFFF
  std::size_t length = 1;
  while (length < wanted && byte(length) >= least && byte(length) <= most) {
    ++length;
    least = 0x80;
    most = 0xbf;
  }
  return {length, length == wanted};
}

// Returns the code point of a whole sequence.
inline std::uint32_t utf8_code(std::string_view sequence) {
  const auto first = static_cast<unsigned char>(sequence[0]);
  if (sequence.size() == 1) return first;
  std::uint32_t code = first & (0xffu >> (sequence.size() + 1));
  for (const char next : sequence.substr(1)) code = code << 6 | (static_cast<unsigned char>(next) & 0x3fu);
  return code;
}

inline void append_utf8(std::string& text, std::uint32_t code) {
  const auto add = [&](std::uint32_t byte) { text.push_back(static_cast<char>(static_cast<unsigned char>(byte))); };
  if (code < 0x80) {
    add(code);
    return;
  }
  if (code < 0x800) {
    add(0xc0 | code >> 6);
  } else {
    if (code < 0x10000) {
      add(0xe0 | code >> 12);
    } else {
      add(0xf0 | code >> 18);
      add(0x80 | (code >> 12 & 0x3f));
    }
    add(0x80 | (code >> 6 & 0x3f));
  }
  add(0x80 | (code & 0x3f));
}

}  // namespace edgekd::detail
