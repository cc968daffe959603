// SPDX-License-Identifier: Apache-2.0
// Arrays that go into a model and come out of it.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "error.hpp"

namespace edgekd {

enum class Dtype { boolean, int8, uint8, int16, uint16, int32, uint32, int64, uint64, float16, float32, float64 };

using Shape = std::vector<std::int64_t>;

namespace detail {

struct DtypeFacts {
  Dtype dtype;
  std::string_view name;
  std::size_t bytes;
};

constexpr std::array<DtypeFacts, 12> dtypes{{
    {Dtype::boolean, "bool", 1},
    {Dtype::int8, "int8", 1},
    {Dtype::uint8, "uint8", 1},
    {Dtype::int16, "int16", 2},
    {Dtype::uint16, "uint16", 2},
    {Dtype::int32, "int32", 4},
    {Dtype::uint32, "uint32", 4},
    {Dtype::int64, "int64", 8},
    {Dtype::uint64, "uint64", 8},
    {Dtype::float16, "float16", 2},
    {Dtype::float32, "float32", 4},
    {Dtype::float64, "float64", 8},
}};

inline const DtypeFacts& facts(Dtype dtype) { return dtypes[static_cast<std::size_t>(dtype)]; }

template <class T>
constexpr Dtype dtype_of() {
  static_assert(std::is_arithmetic_v<T> && sizeof(T) <= 8, "a tensor holds numbers");
  if constexpr (std::is_same_v<T, bool>) return Dtype::boolean;
  if constexpr (std::is_floating_point_v<T>) return sizeof(T) == 4 ? Dtype::float32 : Dtype::float64;
  constexpr bool negative = std::is_signed_v<T>;
  if constexpr (sizeof(T) == 1) return negative ? Dtype::int8 : Dtype::uint8;
  if constexpr (sizeof(T) == 2) return negative ? Dtype::int16 : Dtype::uint16;
  if constexpr (sizeof(T) == 4) return negative ? Dtype::int32 : Dtype::uint32;
  return negative ? Dtype::int64 : Dtype::uint64;
}

// IEEE 754 binary16.
inline double from_half(std::uint16_t bits) {
  const int exponent = bits >> 10 & 31;
  const int fraction = bits & 1023;
  double value = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(fraction + 1024, exponent - 25);
  if (exponent == 31) value = fraction == 0 ? HUGE_VAL : std::nan("");
  return bits >> 15 ? -value : value;
}

}  // namespace detail

inline std::string to_string(Dtype dtype) { return std::string(detail::facts(dtype).name); }

inline std::string to_string(const Shape& shape) {
  std::string text;
  for (const std::int64_t extent : shape) text += (text.empty() ? "" : ", ") + std::to_string(extent);
  return "[" + text + "]";
}

// Returns the dtype of a name such as "float32", or nothing.
inline std::optional<Dtype> find_dtype(std::string_view name) {
  for (const auto& entry : detail::dtypes) {
    if (entry.name == name) return entry.dtype;
  }
  return std::nullopt;
}

// Returns the number of bytes of a tensor, or nothing if an extent is negative or no memory could hold it.
inline std::optional<std::size_t> byte_count(Dtype dtype, const Shape& shape) {
  constexpr std::uint64_t most = std::uint64_t{1} << (sizeof(std::size_t) == 8 ? 47 : 30);
  std::uint64_t count = detail::facts(dtype).bytes;
  for (const std::int64_t extent : shape) {
    if (extent < 0) return std::nullopt;
    const auto times = static_cast<std::uint64_t>(extent);
    if (times != 0 && count > most / times) return std::nullopt;
    count *= times;
  }
  return static_cast<std::size_t>(count);
}

// Values of one dtype, row after row, and their shape.
class Tensor {
 public:
  // Makes a tensor of zeros.
  Tensor(Dtype dtype, Shape shape) : dtype_(dtype), shape_(std::move(shape)) {
    const auto size = byte_count(dtype_, shape_);
    if (!size) throw Error("a tensor cannot have the shape " + to_string(shape_));
    bytes_.resize(*size);
  }

  // Copies `values`; their number is the product of the shape.
  template <class T>
  Tensor(Shape shape, const std::vector<T>& values) : Tensor(detail::dtype_of<T>(), std::move(shape)) {
    static_assert(!std::is_same_v<T, bool>, "std::vector<bool> has no bytes of its own");
    if (values.size() != size()) {
      throw Error(std::to_string(values.size()) + " values for a tensor of the shape " + to_string(shape_));
    }
    if (!values.empty()) std::memcpy(bytes_.data(), values.data(), bytes_.size());
  }

  Dtype dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }

  // Returns the number of values.
  std::size_t size() const { return bytes_.size() / detail::facts(dtype_).bytes; }

  const std::vector<std::byte>& bytes() const { return bytes_; }
  std::vector<std::byte>& bytes() { return bytes_; }

  // Returns the values; T has to be the type that the dtype names.
  template <class T>
  const T* data() const {
    require(detail::dtype_of<T>());
    return reinterpret_cast<const T*>(bytes_.data());
  }
  template <class T>
  T* data() {
    require(detail::dtype_of<T>());
    return reinterpret_cast<T*>(bytes_.data());
  }

  // Returns one value as a number, whatever the dtype is.
  double number(std::size_t index) const {
    switch (dtype_) {
      case Dtype::boolean: return as<std::uint8_t>(index) != 0;
      case Dtype::int8: return as<std::int8_t>(index);
      case Dtype::uint8: return as<std::uint8_t>(index);
      case Dtype::int16: return as<std::int16_t>(index);
      case Dtype::uint16: return as<std::uint16_t>(index);
      case Dtype::int32: return as<std::int32_t>(index);
      case Dtype::uint32: return as<std::uint32_t>(index);
      case Dtype::int64: return static_cast<double>(as<std::int64_t>(index));
      case Dtype::uint64: return static_cast<double>(as<std::uint64_t>(index));
      case Dtype::float16: return detail::from_half(as<std::uint16_t>(index));
      case Dtype::float32: return static_cast<double>(as<float>(index));
      case Dtype::float64: return as<double>(index);
    }
    return 0;
  }

 private:
  Dtype dtype_;
  Shape shape_;
  std::vector<std::byte> bytes_;

  void require(Dtype wanted) const {
    if (wanted != dtype_) throw Error("a tensor of " + to_string(dtype_) + ", not of " + to_string(wanted));
  }

  template <class T>
  T as(std::size_t index) const {
    T value;
    std::memcpy(&value, bytes_.data() + index * sizeof(T), sizeof(T));
    return value;
  }
};

}  // namespace edgekd
