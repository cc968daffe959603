// SPDX-License-Identifier: Apache-2.0
// A model inside an app: opens the bundle that `edgekd bundle` wrote.
//
//   edgekd::Bundle bundle("app");
//   auto outputs = bundle.run({{"input", tensor}});
//   auto best = bundle.classify(pixels, height, width, 5);
//
// The model for this CPU is opened if its file is as the manifest says. What is wrong is thrown as an edgekd::Error.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "edgekd/error.hpp"
#include "edgekd/files.hpp"
#include "edgekd/image.hpp"
#include "edgekd/manifest.hpp"
#include "edgekd/runtime.hpp"
#include "edgekd/system.hpp"
#include "edgekd/tensor.hpp"
#include "edgekd/text.hpp"

namespace edgekd {

// A class and its score. `label` is empty where the bundle does not know the classes' names.
struct Score {
  std::size_t index = 0;
  std::string label;
  double score = 0;
};

// Returns the target of this CPU, such as "arm64-dotprod".
inline std::string cpu_target() { return detail::cpu_target(); }

// How a bundle is opened.
struct Options {
  // onnxruntime: a file, or a name that the system looks for; empty: that of the environment variable
  // EDGEKD_ONNXRUNTIME, or else the system's usual name, such as libonnxruntime.so.
  std::filesystem::path library = {};
  // 64 hexadecimal digits: only a bundle that is signed with this key is opened.
  std::optional<std::string> public_key = std::nullopt;
};

// An open bundle. Several threads may use it at a time.
class Bundle {
 public:
  // Opens the bundle in `folder`.
  explicit Bundle(const std::filesystem::path& folder, const Options& options = {}) : Bundle(Folder(folder), options) {}

  const Manifest& manifest() const { return manifest_; }
  const std::string& target() const { return target_; }
  const std::string& model() const { return choice().model; }
  const std::string& onnxruntime() const { return runtime_->version(); }

  // Runs the model on inputs by name, and returns all outputs by name.
  std::map<std::string, Tensor> run(const std::map<std::string, Tensor>& inputs) const {
    for (const Value& value : manifest_.inputs) {
      const auto place = inputs.find(value.name);
      if (place == inputs.end()) throw Error("input " + value.name + " is missing");
      require(value, place->second);
    }
    if (inputs.size() != manifest_.inputs.size()) throw Error("more inputs than the model has");
    std::vector<std::string> names;
    for (const Value& value : manifest_.outputs) names.push_back(value.name);
    return session_->run(inputs, names);
  }

  // Turns an image into the model's input: rows of RGB pixels, or RGBA with 4 channels, without gaps.
  Tensor prepare(const std::uint8_t* pixels, std::size_t height, std::size_t width, std::size_t channels = 3) const {
    if (!manifest_.image || manifest_.inputs.size() != 1) {
      throw Error("this bundle's model does not take an image; use run()");
    }
    return prepare_image(*manifest_.image, pixels, height, width, channels);
  }

  // Returns how texts become token numbers.
  const Tokenizer& tokenizer() const {
    if (!tokenizer_) throw Error("this bundle's model does not take a text; use run()");
    return *tokenizer_;
  }

  // Turns a text, UTF-8, into the model's inputs by name.
  std::map<std::string, Tensor> prepare_text(std::string_view text) const { return tokenizer().inputs(text); }

  // Returns the `top` classes of an image with the highest scores, the best first; pixels are those of `prepare`.
  std::vector<Score> classify(const std::uint8_t* pixels, std::size_t height, std::size_t width, std::size_t top,
                              std::size_t channels = 3) const {
    const auto outputs = run({{manifest_.inputs.at(0).name, prepare(pixels, height, width, channels)}});
    return best(outputs.at(manifest_.outputs.front().name), top);
  }

 private:
  Manifest manifest_;
  std::shared_ptr<const Runtime> runtime_;
  std::string target_;
  std::unique_ptr<const Session> session_;
  std::optional<Tokenizer> tokenizer_;

  Bundle(const Folder& folder, const Options& options)
      : manifest_(read_manifest(folder, options.public_key)),
        runtime_(std::make_shared<const Runtime>(options.library, manifest_.least_onnxruntime)),
        target_(cpu_target()) {
    const auto content = folder.content(manifest_.file(choice().model));
    session_ = std::make_unique<const Session>(runtime_, content, choice().session);
    if (manifest_.text) {
      const auto vocabulary = folder.content(manifest_.file(manifest_.text->vocabulary));
      const auto characters = folder.content(manifest_.file(manifest_.text->characters));
      tokenizer_.emplace(*manifest_.text, as_text(vocabulary), as_text(characters));
    }
  }

  static std::string_view as_text(const std::vector<std::byte>& content) {
    return {reinterpret_cast<const char*>(content.data()), content.size()};
  }

  const Choice& choice() const { return manifest_.choose(target_); }

  static void require(const Value& value, const Tensor& tensor) {
    const Shape& shape = tensor.shape();
    bool right = tensor.dtype() == value.dtype && shape.size() == value.shape.size();
    for (std::size_t i = 0; right && i < shape.size(); ++i) right = value.shape[i] < 0 || value.shape[i] == shape[i];
    if (right) return;
    throw Error("input " + value.name + ": expected " + to_string(value.dtype) + " " + to_string(value.shape) +
                " (-1: any extent), found " + to_string(tensor.dtype()) + " " + to_string(shape));
  }

  std::vector<Score> best(const Tensor& logits, std::size_t top) const {
    std::vector<double> scores(logits.size());
    for (std::size_t i = 0; i < scores.size(); ++i) scores[i] = logits.number(i);
    if (std::any_of(scores.begin(), scores.end(), [](double score) { return !std::isfinite(score); })) {
      throw Error("the model's answer holds values that are no numbers");
    }
    if (scores.empty()) return {};
    const double highest = *std::max_element(scores.begin(), scores.end());
    for (double& score : scores) score = std::exp(score - highest);
    const double sum = std::accumulate(scores.begin(), scores.end(), 0.0);
    std::vector<std::size_t> order(scores.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    const auto better = [&](std::size_t one, std::size_t other) { return scores[one] > scores[other]; };
    std::stable_sort(order.begin(), order.end(), better);
    order.resize(std::min(top, order.size()));
    std::vector<Score> found;
    for (const std::size_t index : order) {
      const bool known = index < manifest_.labels.size();
      found.push_back({index, known ? manifest_.labels[index] : std::string(), scores[index] / sum});
    }
    return found;
  }
};

}  // namespace edgekd
