// SPDX-License-Identifier: Apache-2.0
// The one kind of error that a bundle throws.
#pragma once

#include <stdexcept>
#include <string>

namespace edgekd {

// What is wrong, in one line. docs/bundle.md of edgekd lists the messages.
class Error : public std::runtime_error {
 public:
  explicit Error(std::string message) : std::runtime_error(one_line(std::move(message))) {}

 private:
  // A damaged manifest must not write control characters to a terminal.
  static std::string one_line(std::string text) {
    for (char& letter : text) {
      const auto code = static_cast<unsigned char>(letter);
      if (code < 0x20 || code == 0x7f) letter = '?';
    }
    return text;
  }
};

}  // namespace edgekd
