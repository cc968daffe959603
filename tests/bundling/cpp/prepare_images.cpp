// prepare_images IMAGE.json: for each image on the standard input, the values that it becomes.
//
// An image is its height, width and channels, each 4 bytes of this machine's order, and its pixels.

#include <array>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

#include "edgekd/manifest.hpp"

int main(int, char** arguments) {
  std::ifstream file(arguments[1], std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  const edgekd::json::Value data = edgekd::json::parse(text);
  const edgekd::ImageContract image = edgekd::detail::read_image(edgekd::detail::Part(data, "image"));
  std::array<std::uint32_t, 3> shape{};
  while (std::cin.read(reinterpret_cast<char*>(shape.data()), sizeof shape)) {
    std::vector<std::uint8_t> pixels(std::size_t{shape[0]} * shape[1] * shape[2]);
    std::cin.read(reinterpret_cast<char*>(pixels.data()), static_cast<std::streamsize>(pixels.size()));
    const edgekd::Tensor tensor = edgekd::prepare_image(image, pixels.data(), shape[0], shape[1], shape[2]);
    std::cout.write(reinterpret_cast<const char*>(tensor.bytes().data()),
                    static_cast<std::streamsize>(tensor.bytes().size()));
  }
}
