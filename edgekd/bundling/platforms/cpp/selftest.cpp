// SPDX-License-Identifier: Apache-2.0
// selftest [BUNDLE [ONNXRUNTIME]]: proves that a bundle is whole and answers here as it did where it was made.

#include <iostream>

#include "edgekd/self_test.hpp"

int main(int count, char** arguments) {
  const std::filesystem::path bundle = count > 1 ? arguments[1] : ".";
  const std::filesystem::path library = count > 2 ? arguments[2] : "";
  return edgekd::self_test(bundle, library, std::cout) ? 0 : 1;
}
