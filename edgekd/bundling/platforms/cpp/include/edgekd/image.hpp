// SPDX-License-Identifier: Apache-2.0
// How pixels become the input of a model: Pillow's bicubic filter, bit for bit, then mean and standard deviation.
//
// It needs a compiler that neither fuses a product with a sum nor reorders them: -ffp-contract=off, no -ffast-math.
#pragma once

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "error.hpp"
#include "tensor.hpp"

#if defined(__FAST_MATH__)
#error "edgekd: images are prepared exactly, which -ffast-math does not allow"
#endif
#if defined(__clang__)
#define EDGEKD_UNFUSED _Pragma("STDC FP_CONTRACT OFF")
#else
#define EDGEKD_UNFUSED
#endif

namespace edgekd {

static_assert(FLT_EVAL_METHOD == 0, "images are prepared exactly: compile with -msse2 -mfpmath=sse");

enum class Colour { rgb, bgr, gray };
enum class Layout { nchw, nhwc };

// What a model's input is; Mean and standard deviation are in units of the pixel range [0, 1], one for each channel.
struct ImageContract {
  Colour colour = Colour::rgb;
  Layout layout = Layout::nchw;
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::vector<float> mean;
  std::vector<float> deviation;

  std::int64_t channels() const { return colour == Colour::gray ? 1 : 3; }
};

namespace detail {

// Rows of pixels with interleaved channels.
struct Pixels {
  std::size_t height;
  std::size_t width;
  std::size_t channels;
  std::vector<std::uint8_t> values;
};

// The input pixels that one output pixel is made of, from `first` on, and their weights in units of 2^-22.
struct Window {
  std::size_t first;
  std::vector<std::int32_t> weights;
};

constexpr int weight_bits = 22;

// Keys' cubic kernel, a = -1/2.
inline double cubic(double u) {
  EDGEKD_UNFUSED
  constexpr double a = -0.5;
  const double t = u < 0 ? -u : u;
  if (t < 1) return ((a + 2) * t - (a + 3)) * t * t + 1;
  if (t < 2) return (((t - 5) * t + 8) * t - 4) * a;
  return 0;
}

inline Window window(std::size_t in, std::int64_t out, std::int64_t x) {
  EDGEKD_UNFUSED
  const double s = static_cast<double>(in) / static_cast<double>(out);
  const double f = std::max(s, 1.0);
  const double c = (static_cast<double>(x) + 0.5) * s;
  const double per_f = 1 / f;
  const auto from = static_cast<std::size_t>(std::max(0.0, std::trunc(c - 2 * f + 0.5)));
  const auto to = std::min(in, static_cast<std::size_t>(c + 2 * f + 0.5));
  std::vector<double> weights;
  double sum = 0;
  for (std::size_t i = from; i < to; ++i) {
    weights.push_back(cubic((static_cast<double>(i) - c + 0.5) * per_f));
    sum += weights.back();
  }
  Window found{from, {}};
  for (const double weight : weights) {
    const double scaled = (sum != 0 ? weight / sum : weight) * (1 << weight_bits);
    found.weights.push_back(static_cast<std::int32_t>(scaled < 0 ? scaled - 0.5 : scaled + 0.5));
  }
  return found;
}

// Returns the windows of `count` output pixels from `first` on, where `in` pixels become `out`.
inline std::vector<Window> windows(std::size_t in, std::int64_t out, std::int64_t first, std::size_t count) {
  std::vector<Window> found;
  for (std::size_t x = 0; x < count; ++x) {
    if (static_cast<std::int64_t>(in) == out) {
      found.push_back({static_cast<std::size_t>(first) + x, {1 << weight_bits}});
    } else {
      found.push_back(window(in, out, first + static_cast<std::int64_t>(x)));
    }
  }
  return found;
}

// Returns the weighted sum of pixels that are `step` bytes apart.
inline std::uint8_t weighted(const Window& window, const std::uint8_t* pixels, std::size_t step) {
  std::int64_t sum = 1 << (weight_bits - 1);
  for (const std::int32_t weight : window.weights) {
    sum += std::int64_t{weight} * *pixels;
    pixels += step;
  }
  return static_cast<std::uint8_t>(std::clamp<std::int64_t>(sum < 0 ? 0 : sum >> weight_bits, 0, 255));
}

inline Pixels along_rows(const Pixels& image, const std::vector<Window>& columns) {
  Pixels found{image.height, columns.size(), image.channels, {}};
  found.values.reserve(found.height * found.width * found.channels);
  for (std::size_t y = 0; y < image.height; ++y) {
    const std::uint8_t* row = image.values.data() + y * image.width * image.channels;
    for (const Window& column : columns) {
      for (std::size_t channel = 0; channel < image.channels; ++channel) {
        found.values.push_back(weighted(column, row + column.first * image.channels + channel, image.channels));
      }
    }
  }
  return found;
}

inline Pixels along_columns(const Pixels& image, const std::vector<Window>& rows) {
  const std::size_t step = image.width * image.channels;
  Pixels found{rows.size(), image.width, image.channels, {}};
  found.values.reserve(found.height * step);
  for (const Window& row : rows) {
    const std::uint8_t* top = image.values.data() + row.first * step;
    for (std::size_t x = 0; x < step; ++x) found.values.push_back(weighted(row, top + x, step));
  }
  return found;
}

// Copies the colours of pixels that are `stride` bytes apart, or makes them gray.
inline Pixels taken(const std::uint8_t* values, std::size_t height, std::size_t width, std::size_t stride, bool gray) {
  Pixels found{height, width, gray ? std::size_t{1} : std::size_t{3}, {}};
  found.values.reserve(height * width * found.channels);
  for (std::size_t i = 0; i < height * width; ++i, values += stride) {
    if (gray) {
      const std::uint32_t sum = 19595u * values[0] + 38470u * values[1] + 7471u * values[2] + 32768u;
      found.values.push_back(static_cast<std::uint8_t>(sum >> 16));
    } else {
      found.values.insert(found.values.end(), values, values + 3);
    }
  }
  return found;
}

// Returns the middle of an image that is scaled until it just covers the size. Only what is kept is computed.
inline Pixels cover(const Pixels& image, std::size_t height, std::size_t width) {
  if (image.height == height && image.width == width) return image;
  const auto h = static_cast<double>(image.height);
  const auto w = static_cast<double>(image.width);
  const double scale = std::max(static_cast<double>(height) / h, static_cast<double>(width) / w);
  const auto scaled = [&](double extent, std::size_t least) {
    return std::max(static_cast<std::int64_t>(least), static_cast<std::int64_t>(std::nearbyint(extent * scale)));
  };
  const std::int64_t scaled_height = scaled(h, height);
  const std::int64_t scaled_width = scaled(w, width);
  const std::int64_t top = (scaled_height - static_cast<std::int64_t>(height)) / 2;
  const std::int64_t left = (scaled_width - static_cast<std::int64_t>(width)) / 2;
  const auto columns = windows(image.width, scaled_width, left, width);
  const auto rows = windows(image.height, scaled_height, top, height);
  return along_columns(along_rows(image, columns), rows);
}

}  // namespace detail

// Turns pixels into a model's input, float32 with a batch axis of 1.
//
// `values` are rows of RGB (channels = 3) or RGBA (4; transparency is dropped), without gaps.
inline Tensor prepare_image(const ImageContract& contract, const std::uint8_t* values, std::size_t height,
                            std::size_t width, std::size_t channels = 3) {
  if (channels != 3 && channels != 4) throw Error("an image has 3 or 4 channels, not " + std::to_string(channels));
  if (height == 0 || width == 0) throw Error("an image without pixels");
  const auto image = detail::cover(detail::taken(values, height, width, channels, contract.colour == Colour::gray),
                                   static_cast<std::size_t>(contract.height), static_cast<std::size_t>(contract.width));
  const bool nchw = contract.layout == Layout::nchw;
  const std::int64_t depth = contract.channels();
  Tensor tensor(Dtype::float32, nchw ? Shape{1, depth, contract.height, contract.width}
                                     : Shape{1, contract.height, contract.width, depth});
  float* prepared = tensor.data<float>();
  const std::size_t area = image.height * image.width;
  for (std::size_t channel = 0; channel < image.channels; ++channel) {
    const float scale = contract.deviation[channel] * 255.0f;
    const float shift = contract.mean[channel] / contract.deviation[channel];
    const std::size_t source = contract.colour == Colour::bgr ? 2 - channel : channel;
    for (std::size_t i = 0; i < area; ++i) {
      const auto value = static_cast<float>(image.values[i * image.channels + source]);
      prepared[nchw ? channel * area + i : i * image.channels + channel] = value / scale - shift;
    }
  }
  return tensor;
}

}  // namespace edgekd
