// SPDX-License-Identifier: Apache-2.0
// Proves where it runs that a bundle is whole, and that its model answers as it did where it was made.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <map>
#include <ostream>
#include <string>
#include <vector>

#include "../edgekd_bundle.hpp"

namespace edgekd {

namespace detail {

inline std::string three_digits(double number) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g", number);
  return text;
}

// Returns one run of a tensor whose first axis is the runs.
inline Tensor one_run(const Tensor& runs, std::int64_t run) {
  Tensor found(runs.dtype(), Shape(runs.shape().begin() + 1, runs.shape().end()));
  const auto size = static_cast<std::ptrdiff_t>(found.bytes().size());
  std::copy_n(runs.bytes().begin() + run * size, size, found.bytes().begin());
  return found;
}

// Returns the largest difference of two tensors of one shape; infinite if a value is NaN.
inline double largest_difference(const Tensor& found, const Tensor& expected) {
  double largest = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const double difference = std::abs(found.number(i) - expected.number(i));
    if (!(difference <= largest)) largest = std::isnan(difference) ? HUGE_VAL : difference;
  }
  return largest;
}

class SelfTest {
 public:
  SelfTest(const std::filesystem::path& folder, const Options& options, std::ostream& out)
      : path_(folder), options_(options), folder_(folder), out_(out) {}

  void run() {
    manifest_ = read_manifest(folder_, options_.public_key);
    const std::string version = Runtime(options_.library, manifest_.least_onnxruntime).version();
    out_ << "manifest: " << manifest_.name << ", " << manifest_schema << ", onnxruntime " << version << " (least "
         << manifest_.least_onnxruntime << ")\n";
    for (const FileRecord& file : manifest_.files) folder_.check(file);
    out_ << "files: " << manifest_.files.size() << " of " << manifest_.files.size() << " are whole\n";
    const Bundle bundle(path_, options_);
    out_ << "target: " << bundle.target() << ", model " << bundle.model() << "\n";
    preparation(bundle);
    golden(bundle);
  }

 private:
  std::filesystem::path path_;
  Options options_;
  Folder folder_;
  std::ostream& out_;
  Manifest manifest_;

  void preparation(const Bundle& bundle) {
    const auto require = [](bool exact, const char* kind, std::size_t number) {
      if (exact) return;
      throw Error(std::string("preparation: ") + kind + " " + std::to_string(number) + " becomes another input here");
    };
    for (std::size_t i = 0; i < manifest_.images.size(); ++i) {
      const ImageVector& vector = manifest_.images[i];
      const Tensor pixels = read_stored(folder_, manifest_, vector.pixels);
      const auto height = static_cast<std::size_t>(pixels.shape()[0]);
      const auto width = static_cast<std::size_t>(pixels.shape()[1]);
      const Tensor prepared = bundle.prepare(pixels.data<std::uint8_t>(), height, width);
      Sha256 hash;
      hash.update(prepared.bytes().data(), prepared.bytes().size());
      require(hash.hex() == vector.sha256, "image", i);
    }
    for (std::size_t i = 0; i < manifest_.texts.size(); ++i) {
      const TextVector& vector = manifest_.texts[i];
      require(bundle.tokenizer().ids(vector.text) == vector.ids, "text", i);
    }
    const std::size_t count = manifest_.images.size() + manifest_.texts.size();
    if (count > 0) out_ << "preparation: " << count << " of " << count << " vectors are exact\n";
  }

  void golden(const Bundle& bundle) {
    std::map<std::string, Tensor> inputs;
    for (const StoredTensor& input : manifest_.golden) {
      inputs.emplace(input.name, read_stored(folder_, manifest_, input));
    }
    std::vector<std::map<std::string, Tensor>> answers;
    for (std::int64_t run = 0; run < manifest_.runs; ++run) {
      std::map<std::string, Tensor> fed;
      for (const auto& [name, runs] : inputs) fed.emplace(name, one_run(runs, run));
      answers.push_back(bundle.run(fed));
    }
    for (const ExpectedOutput& output : manifest_.choose(bundle.target()).expected) {
      const Tensor expected = read_stored(folder_, manifest_, output.tensor);
      double largest = 0;
      for (std::int64_t run = 0; run < manifest_.runs; ++run) {
        const Tensor& found = answers[static_cast<std::size_t>(run)].at(output.tensor.name);
        const Tensor wanted = one_run(expected, run);
        if (found.shape() != wanted.shape()) {
          throw Error("golden: " + output.tensor.name + " has shape " + to_string(found.shape()) + ", expected " +
                      to_string(wanted.shape()));
        }
        largest = std::max(largest, largest_difference(found, wanted));
      }
      const std::string said = output.tensor.name + " differs by " + three_digits(largest) + " at most, " +
                               three_digits(output.tolerance) + " is allowed";
      if (!(largest <= output.tolerance)) throw Error("golden: " + said);
      out_ << "golden: " << manifest_.runs << " runs, " << said << "\n";
    }
  }
};

}  // namespace detail

// Prints a line for each check, then PASS or FAIL: and why. Returns whether the bundle passed.
inline bool self_test(const std::filesystem::path& folder, const Options& options, std::ostream& out) {
  try {
    detail::SelfTest(folder, options, out).run();
    out << "PASS" << std::endl;
    return true;
  } catch (const std::exception& error) {
    out << "FAIL: " << error.what() << std::endl;
    return false;
  }
}

}  // namespace edgekd
