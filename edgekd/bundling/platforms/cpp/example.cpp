// SPDX-License-Identifier: Apache-2.0
// example BUNDLE IMAGE.ppm: names what is in an image, and says how long the model takes.

#include <chrono>
#include <cstdint>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <limits>
#include <string>
#include <vector>

#include "edgekd_bundle.hpp"

namespace {

struct Image {
  std::size_t height = 0;
  std::size_t width = 0;
  std::vector<std::uint8_t> pixels;  // RGB
};

// Reads a number of a PPM file's head, in which # begins a comment.
std::size_t read_number(std::istream& stream) {
  while ((stream >> std::ws).peek() == '#') stream.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  std::size_t number = 0;
  stream >> number;
  return number;
}

// Reads a PPM file: P6, 8 bits a channel.
Image read_ppm(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  std::string kind;
  stream >> kind;
  Image image;
  image.width = read_number(stream);
  image.height = read_number(stream);
  const std::size_t white = read_number(stream);
  stream.get();
  constexpr std::size_t most = std::size_t{1} << 14;
  const bool sized = image.width > 0 && image.height > 0 && image.width <= most && image.height <= most;
  if (stream && kind == "P6" && white == 255 && sized) {
    image.pixels.resize(image.height * image.width * 3);
    stream.read(reinterpret_cast<char*>(image.pixels.data()), static_cast<std::streamsize>(image.pixels.size()));
    if (stream) return image;
  }
  throw edgekd::Error(path + ": no PPM image (P6, 8 bits a channel)");
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) {
    std::cerr << "usage: " << arguments[0] << " BUNDLE IMAGE.ppm\n";
    return 2;
  }
  try {
    const edgekd::Bundle bundle(arguments[1]);
    const Image image = read_ppm(arguments[2]);
    bundle.classify(image.pixels.data(), image.height, image.width, 1);  // the first run allocates
    const auto begin = std::chrono::steady_clock::now();
    const auto best = bundle.classify(image.pixels.data(), image.height, image.width, 5);
    const std::chrono::duration<double, std::milli> taken = std::chrono::steady_clock::now() - begin;
    std::cout << std::fixed << std::setprecision(3);
    for (const edgekd::Score& score : best) {
      std::cout << score.score << "  " << (score.label.empty() ? std::to_string(score.index) : score.label) << "\n";
    }
    std::cout << bundle.model() << " on " << bundle.target() << ": " << taken.count() << " ms\n";
    return 0;
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
