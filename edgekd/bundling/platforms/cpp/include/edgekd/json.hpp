// SPDX-License-Identifier: Apache-2.0
// A strict reader of JSON (RFC 8259): UTF-8 only, no key twice, and no deeper than it can be read safely.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <locale>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "utf8.hpp"

namespace edgekd::json {

enum class Kind { null, boolean, number, text, list, object };

struct Member;

// A value. `literal` is a text's content, or a number as it is written.
struct Value {
  Kind kind = Kind::null;
  bool boolean = false;
  std::string literal;
  std::vector<Value> list;
  std::vector<Member> object;  // sorted by key

  // Returns the value of a key, or null where there is no such key.
  const Value* find(std::string_view key) const;

  // Returns a number, or nothing if it does not fit.
  std::optional<double> number() const {
    std::istringstream stream(literal);
    stream.imbue(std::locale::classic());  // a decimal point, whatever the app's language is
    double value = 0;
    const bool fits = static_cast<bool>(stream >> value);
    const bool tiny = !fits && value > -1 && value < 1;  // below the smallest double
    if (!fits && !tiny) return std::nullopt;
    return value;
  }

  // Returns a whole number, or nothing if it is none or does not fit.
  std::optional<std::int64_t> whole() const {
    if (literal.find_first_of(".eE") != std::string::npos) return std::nullopt;
    std::istringstream stream(literal);
    stream.imbue(std::locale::classic());
    std::int64_t value = 0;
    if (!(stream >> value)) return std::nullopt;
    return value;
  }
};

struct Member {
  std::string key;
  Value value;
};

inline const Value* Value::find(std::string_view key) const {
  const auto place = std::lower_bound(object.begin(), object.end(), key,
                                      [](const Member& member, std::string_view name) { return member.key < name; });
  return place != object.end() && place->key == key ? &place->value : nullptr;
}

// Why a text is no JSON, and where.
class SyntaxError : public std::runtime_error {
 public:
  SyntaxError(const std::string& what, std::size_t offset)
      : std::runtime_error(what + " at byte " + std::to_string(offset)) {}
};

namespace detail {

constexpr int most_levels = 64;

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Value document() {
    Value value = any(0);
    skip_space();
    if (at_ != text_.size()) fail("something follows the value");
    return value;
  }

 private:
  std::string_view text_;
  std::size_t at_ = 0;

  [[noreturn]] void fail(const std::string& what) const { throw SyntaxError(what, at_); }

  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

  bool take(char letter) {
    if (at_ >= text_.size() || text_[at_] != letter) return false;
    ++at_;
    return true;
  }

  void expect(char letter) {
    if (!take(letter)) fail(std::string("expected '") + letter + "'");
  }

  void skip_space() { at_ = std::min(text_.find_first_not_of(" \t\n\r", at_), text_.size()); }

  Value any(int level) {
    if (level > most_levels) fail("nested too deeply");
    skip_space();
    switch (peek()) {
      case '{':
        return object(level);
      case '[':
        return list(level);
      case '"': {
        Value value;
        value.kind = Kind::text;
        value.literal = text();
        return value;
      }
      case 't':
        return word("true", Kind::boolean, true);
      case 'f':
        return word("false", Kind::boolean, false);
      case 'n':
        return word("null", Kind::null, false);
      default:
        return number();
    }
  }

  Value word(std::string_view name, Kind kind, bool boolean) {
    if (text_.substr(at_, name.size()) != name) fail("expected a value");
    at_ += name.size();
    Value value;
    value.kind = kind;
    value.boolean = boolean;
    return value;
  }

  Value object(int level) {
    Value value;
    value.kind = Kind::object;
    expect('{');
    skip_space();
    if (take('}')) return value;
    do {
      skip_space();
      if (peek() != '"') fail("expected a key");
      std::string key = text();
      skip_space();
      expect(':');
      value.object.push_back({std::move(key), any(level + 1)});
      skip_space();
    } while (take(','));
    expect('}');
    const auto less = [](const Member& one, const Member& other) { return one.key < other.key; };
    const auto same = [](const Member& one, const Member& other) { return one.key == other.key; };
    std::sort(value.object.begin(), value.object.end(), less);
    if (std::adjacent_find(value.object.begin(), value.object.end(), same) != value.object.end()) {
      fail("a key stands twice in the object that ends");
    }
    return value;
  }

  Value list(int level) {
    Value value;
    value.kind = Kind::list;
    expect('[');
    skip_space();
    if (take(']')) return value;
    do {
      value.list.push_back(any(level + 1));
      skip_space();
    } while (take(','));
    expect(']');
    return value;
  }

  Value number() {
    const std::size_t begin = at_;
    take('-');
    if (!take('0')) digits();
    if (take('.')) digits();
    if (take('e') || take('E')) {
      if (!take('+')) take('-');
      digits();
    }
    Value value;
    value.kind = Kind::number;
    value.literal = std::string(text_.substr(begin, at_ - begin));
    return value;
  }

  void digits() {
    if (peek() < '0' || peek() > '9') fail("expected a value");
    while (peek() >= '0' && peek() <= '9') ++at_;
  }

  std::string text() {
    std::string content;
    expect('"');
    while (!take('"')) {
      if (at_ >= text_.size()) fail("a text does not end");
      if (static_cast<unsigned char>(peek()) < 0x20) fail("a control character in a text");
      if (take('\\')) {
        escape(content);
        continue;
      }
      const auto [length, whole] = edgekd::detail::utf8_sequence(text_.substr(at_));
      if (!whole) fail("not UTF-8");
      content.append(text_.substr(at_, length));
      at_ += length;
    }
    return content;
  }

  void escape(std::string& content) {
    constexpr std::string_view names = "\"\\/bfnrt";
    constexpr std::string_view meanings = "\"\\/\b\f\n\r\t";
    const std::size_t which = names.find(peek());
    if (at_ < text_.size() && which != std::string_view::npos) {
      ++at_;
      content.push_back(meanings[which]);
      return;
    }
    if (!take('u')) fail("an unknown escape");
    std::uint32_t code = four_digits();
    if (code >= 0xd800 && code < 0xdc00) {
      if (!take('\\') || !take('u')) fail("half of a pair of surrogates");
      const std::uint32_t second = four_digits();
      if (second < 0xdc00 || second >= 0xe000) fail("half of a pair of surrogates");
      code = 0x10000 + ((code - 0xd800) << 10) + (second - 0xdc00);
    } else if (code >= 0xdc00 && code < 0xe000) {
      fail("half of a pair of surrogates");
    }
    edgekd::detail::append_utf8(content, code);
  }

  std::uint32_t four_digits() {
    std::uint32_t code = 0;
    for (int count = 0; count < 4; ++count, ++at_) {
      const char letter = peek();
      const bool decimal = letter >= '0' && letter <= '9';
      const char lower = static_cast<char>(letter | 0x20);
      if (!decimal && (lower < 'a' || lower > 'f')) fail("expected four hexadecimal digits");
      code = code * 16 + static_cast<std::uint32_t>(decimal ? letter - '0' : lower - 'a' + 10);
    }
    return code;
  }
};

}  // namespace detail

// Reads a text that is one JSON value. Throws SyntaxError.
inline Value parse(std::string_view text) { return detail::Parser(text).document(); }

}  // namespace edgekd::json
