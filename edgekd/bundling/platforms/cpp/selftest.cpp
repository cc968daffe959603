// SPDX-License-Identifier: Apache-2.0
// selftest [--key PUBLIC_KEY] [BUNDLE [ONNXRUNTIME]]: proves that a bundle is whole and answers here as it did where
// it was made; with a key it has to be signed.

#include <iostream>
#include <string>
#include <vector>

#include "edgekd/self_test.hpp"

int main(int count, char** arguments) {
  std::vector<std::string> given(arguments + 1, arguments + count);
  edgekd::Options options;
  if (!given.empty() && given[0] == "--key") {
    if (given.size() == 1) {
      std::cerr << "usage: " << arguments[0] << " [--key PUBLIC_KEY] [BUNDLE [ONNXRUNTIME]]\n";
      return 2;
    }
    options.public_key = given[1];
    given.erase(given.begin(), given.begin() + 2);
  }
  if (given.size() > 1) options.library = given[1];
  return edgekd::self_test(given.empty() ? "." : given[0], options, std::cout) ? 0 : 1;
}
