// SPDX-License-Identifier: Apache-2.0
// How a text becomes token numbers: WordPiece, to the number as where the model was trained.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <unordered_map>
#include <utility>
#include <vector>

#include "error.hpp"
#include "tensor.hpp"
#include "utf8.hpp"

namespace edgekd {

// How a text becomes a model's inputs. An input that the model has not has no name.
struct TextContract {
  std::string vocabulary;  // paths
  std::string characters;
  std::int64_t unknown = 0;
  std::int64_t first = 0;
  std::int64_t last = 0;
  std::string continuation;
  std::size_t longest_word = 0;
  std::size_t longest = 2;
  std::string ids;
  std::optional<std::string> mask;
  std::optional<std::string> types;
};

namespace detail {

// What becomes of the characters from `first` to `last`.
struct Replacement {
  std::uint32_t first = 0;
  std::uint32_t last = 0;
  bool alone = false;
  std::string becomes;
};

inline std::vector<std::string_view> split(std::string_view text, char at) {
  std::vector<std::string_view> parts;
  for (std::size_t end = text.find(at); end != std::string_view::npos; end = text.find(at)) {
    parts.push_back(text.substr(0, end));
    text.remove_prefix(end + 1);
  }
  parts.push_back(text);
  return parts;
}

// Reads a code point in hexadecimal digits; nothing if it is none.
inline std::optional<std::uint32_t> read_code(std::string_view digits) {
  std::uint32_t code = 0;
  const char* end = digits.data() + digits.size();
  const auto read = std::from_chars(digits.data(), end, code, 16);
  const bool surrogate = code >= 0xd800 && code < 0xe000;
  if (read.ec != std::errc() || read.ptr != end || code > 0x10ffff || surrogate) return std::nullopt;
  return code;
}

// Reads a line, "FIRST-LAST ACTION"; nothing if it is none.
inline std::optional<Replacement> read_replacement(std::string_view line) {
  const auto fields = split(line, ' ');
  const auto span = split(fields[0], '-');
  if (fields.size() < 2 || span.size() != 2) return std::nullopt;
  const auto first = read_code(span[0]);
  const auto last = read_code(span[1]);
  if (!first || !last || *first > *last) return std::nullopt;
  Replacement found{*first, *last, fields[1] == "alone", {}};
  if (fields[1] == "=") {
    for (std::size_t i = 2; i < fields.size(); ++i) {
      const auto code = read_code(fields[i]);
      if (!code) return std::nullopt;
      append_utf8(found.becomes, *code);
    }
    return found;
  }
  if (fields[1] == "space") found.becomes = " ";
  const bool known = found.alone || fields[1] == "space" || fields[1] == "drop";
  return known && fields.size() == 2 ? std::optional(std::move(found)) : std::nullopt;
}

}  // namespace detail

// The tokenizer of a bundle. Several threads may use it at a time.
class Tokenizer {
 public:
  // Takes the contents of the files that the contract names.
  Tokenizer(TextContract contract, std::string_view vocabulary, std::string_view characters)
      : contract_(std::move(contract)) {
    auto words = detail::split(vocabulary, '\n');
    words.pop_back();  // what follows the last end of a line
    for (std::size_t i = 0; i < words.size(); ++i) numbers_[std::string(words[i])] = static_cast<std::int64_t>(i);
    auto lines = detail::split(characters, '\n');
    lines.pop_back();
    for (const std::string_view line : lines) {
      auto read = detail::read_replacement(line);
      if (!read || (!replacements_.empty() && read->first <= replacements_.back().last)) {
        throw Error(contract_.characters + ": line " + std::to_string(replacements_.size() + 1) +
                    " is not as edgekd.bundle/1 has it");
      }
      replacements_.push_back(std::move(*read));
    }
  }

  // Returns the token numbers of a text, those of begin and end included. Malformed UTF-8 counts as U+FFFD.
  std::vector<std::int64_t> ids(std::string_view text) const {
    std::vector<std::int64_t> found{contract_.first};
    const std::size_t most = contract_.longest - 1;
    const std::string replaced = replace(text);
    for (const std::string_view word : detail::split(replaced, ' ')) {
      if (found.size() >= most) break;
      if (word.empty()) continue;
      const auto tokens = pieces(word);
      found.insert(found.end(), tokens.begin(), tokens.end());
    }
    found.resize(std::min(found.size(), most));
    found.push_back(contract_.last);
    return found;
  }

  // Returns the model's inputs for a text.
  std::map<std::string, Tensor> inputs(std::string_view text) const {
    const auto numbers = ids(text);
    const Shape shape{1, static_cast<std::int64_t>(numbers.size())};
    std::map<std::string, Tensor> found;
    found.emplace(contract_.ids, Tensor(shape, numbers));
    if (contract_.mask) found.emplace(*contract_.mask, Tensor(shape, std::vector<std::int64_t>(numbers.size(), 1)));
    if (contract_.types) found.emplace(*contract_.types, Tensor(Dtype::int64, shape));
    return found;
  }

 private:
  TextContract contract_;
  std::unordered_map<std::string, std::int64_t> numbers_;
  std::vector<detail::Replacement> replacements_;  // in rising order

  std::string replace(std::string_view text) const {
    std::string found;
    while (!text.empty()) {
      const auto [length, whole] = detail::utf8_sequence(text);
      append(found, whole ? detail::utf8_code(text.substr(0, length)) : 0xfffd);
      text.remove_prefix(length);
    }
    return found;
  }

  // Appends what a character becomes.
  void append(std::string& text, std::uint32_t code) const {
    const auto ends_before = [](const detail::Replacement& entry, std::uint32_t wanted) { return entry.last < wanted; };
    const auto place = std::lower_bound(replacements_.begin(), replacements_.end(), code, ends_before);
    if (place == replacements_.end() || place->first > code) {
      detail::append_utf8(text, code);
    } else if (place->alone) {
      text.push_back(' ');
      detail::append_utf8(text, code);
      text.push_back(' ');
    } else {
      text += place->becomes;
    }
  }

  // Cuts a word into the longest tokens, from its begin.
  std::vector<std::int64_t> pieces(std::string_view word) const {
    std::vector<std::size_t> cuts{0};  // where characters end
    while (cuts.back() < word.size()) {
      cuts.push_back(cuts.back() + detail::utf8_sequence(word.substr(cuts.back())).length);
    }
    const std::size_t count = cuts.size() - 1;
    if (count > contract_.longest_word) return {contract_.unknown};
    std::vector<std::int64_t> found;
    for (std::size_t begin = 0; begin < count;) {
      std::size_t end = count;
      auto token = numbers_.end();
      for (; end > begin; --end) {
        const std::string_view piece = word.substr(cuts[begin], cuts[end] - cuts[begin]);
        token = numbers_.find((begin > 0 ? contract_.continuation : "") + std::string(piece));
        if (token != numbers_.end()) break;
      }
      if (token == numbers_.end()) return {contract_.unknown};
      found.push_back(token->second);
      begin = end;
    }
    return found;
  }
};

}  // namespace edgekd
