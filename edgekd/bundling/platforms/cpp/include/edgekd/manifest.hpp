// SPDX-License-Identifier: Apache-2.0
// What this package reads of a manifest, edgekd.bundle/1.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "error.hpp"
#include "files.hpp"
#include "image.hpp"
#include "json.hpp"
#include "signature.hpp"
#include "tensor.hpp"
#include "text.hpp"

namespace edgekd {

inline constexpr const char* manifest_name = "edgekd-bundle.json";
inline constexpr const char* signature_name = "edgekd-bundle.json.sig";
inline constexpr const char* manifest_schema = "edgekd.bundle/1";

// An input or output of the models; an extent of -1 is free.
struct Value {
  std::string name;
  Dtype dtype = Dtype::float32;
  Shape shape;
};

// A tensor in a file. `where` is its place in the manifest.
struct StoredTensor {
  std::string name;
  Dtype dtype = Dtype::float32;
  Shape shape;
  std::string path;
  std::string where;
};

struct ExpectedOutput {
  StoredTensor tensor;
  double tolerance = 0;
};

enum class Optimization { none, basic, extended, all };

struct SessionSettings {
  int intra_op_num_threads = 0;
  bool intra_op_spinning = true;
  bool enable_cpu_mem_arena = true;
  Optimization optimization = Optimization::all;
};

// The model for a target, and what it answers to the golden inputs.
struct Choice {
  std::string model;
  SessionSettings session;
  std::vector<ExpectedOutput> expected;
};

// Pixels, uint8 of shape (height, width, 3), and the sha256 of the tensor that they become.
struct ImageVector {
  StoredTensor pixels;
  std::string sha256;
};

// A text, and the token numbers that it becomes.
struct TextVector {
  std::string text;
  std::vector<std::int64_t> ids;
};

struct Manifest {
  std::string name;
  std::string least_onnxruntime;
  std::vector<FileRecord> files;
  std::vector<Value> inputs;
  std::vector<Value> outputs;
  std::optional<ImageContract> image;
  std::optional<TextContract> text;
  std::vector<std::string> labels;
  std::map<std::string, Choice> targets;
  std::int64_t runs = 0;
  std::vector<StoredTensor> golden;  // the first axis is the runs
  std::vector<ImageVector> images;
  std::vector<TextVector> texts;

  // Returns the record of a file; throws unless the manifest has just one.
  const FileRecord& file(const std::string& path) const {
    const auto is_it = [&](const FileRecord& entry) { return entry.path == path; };
    if (std::count_if(files.begin(), files.end(), is_it) != 1) throw not_as_specified("files");
    return *std::find_if(files.begin(), files.end(), is_it);
  }

  // Returns the model for a target. Throws if there is none.
  const Choice& choose(const std::string& target) const {
    const auto place = targets.find(target);
    if (place == targets.end()) throw Error("no model in this bundle is right on " + target);
    return place->second;
  }

  static Error not_as_specified(const std::string& where) {
    return Error(std::string(manifest_name) + ": " + where + " is not as " + manifest_schema + " has it");
  }
};

namespace detail {

// A value of the manifest and its place there, such as "files.0.path".
class Part {
 public:
  Part(const json::Value& value, std::string where) : value_(&value), where_(std::move(where)) {}

  const std::string& where() const { return where_; }
  bool is_null() const { return value_->kind == json::Kind::null; }
  [[noreturn]] void refuse() const { throw Manifest::not_as_specified(where_); }

  Part operator[](const std::string& key) const {
    require(json::Kind::object);
    const std::string inner = where_.empty() ? key : where_ + "." + key;
    const json::Value* found = value_->find(key);
    if (found == nullptr) throw Manifest::not_as_specified(inner);
    return Part(*found, inner);
  }

  // Calls `read` with each part of a list and returns what it returns.
  template <class Read>
  auto list(Read read) const {
    require(json::Kind::list);
    std::vector<decltype(read(*this))> found;
    for (const json::Value& value : value_->list) {
      found.push_back(read(Part(value, where_ + "." + std::to_string(found.size()))));
    }
    return found;
  }

  std::vector<std::string> keys() const {
    require(json::Kind::object);
    std::vector<std::string> found;
    for (const json::Member& member : value_->object) found.push_back(member.key);
    return found;
  }

  const std::string& text() const {
    require(json::Kind::text);
    return value_->literal;
  }

  std::string path() const {
    require_plain(text());
    return text();
  }

  std::string sha256() const {
    const auto is_digit = [](char letter) {
      return (letter >= '0' && letter <= '9') || (letter >= 'a' && letter <= 'f');
    };
    if (text().size() != 64 || !std::all_of(text().begin(), text().end(), is_digit)) refuse();
    return text();
  }

  bool boolean() const {
    require(json::Kind::boolean);
    return value_->boolean;
  }

  std::int64_t whole(std::int64_t least, std::int64_t most) const {
    require(json::Kind::number);
    const auto found = value_->whole();
    if (!found || *found < least || *found > most) refuse();
    return *found;
  }

  double number() const {
    require(json::Kind::number);
    const auto found = value_->number();
    if (!found) refuse();
    return *found;
  }

  // Returns the value that a word stands for.
  template <class T>
  T one_of(const std::map<std::string, T>& words) const {
    const auto place = words.find(text());
    if (place == words.end()) refuse();
    return place->second;
  }

 private:
  const json::Value* value_;
  std::string where_;

  void require(json::Kind kind) const {
    if (value_->kind != kind) refuse();
  }
};

constexpr std::int64_t most_extent = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t most_length = std::numeric_limits<std::int32_t>::max();  // of words and texts

inline Dtype read_dtype(const Part& part) {
  const auto found = find_dtype(part.text());
  if (!found) part.refuse();
  return *found;
}

inline Value read_value(const Part& part) {
  const auto extent = [](const Part& axis) { return axis.is_null() ? -1 : axis.whole(0, most_extent); };
  return {part["name"].text(), read_dtype(part["dtype"]), part["shape"].list(extent)};
}

inline StoredTensor read_tensor(const Part& part) {
  const auto extent = [](const Part& axis) { return axis.whole(0, most_extent); };
  StoredTensor found{part["name"].text(), read_dtype(part["dtype"]), part["shape"].list(extent), part["path"].path(),
                     part.where()};
  if (!byte_count(found.dtype, found.shape)) part["shape"].refuse();
  return found;
}

// A tensor whose first axis is the runs.
inline StoredTensor read_runs(const Part& part, std::int64_t runs) {
  StoredTensor found = read_tensor(part);
  if (found.shape.empty() || found.shape.front() != runs) part["shape"].refuse();
  return found;
}

inline SessionSettings read_session(const Part& part) {
  SessionSettings found;
  found.intra_op_num_threads = static_cast<int>(part["intra_op_num_threads"].whole(0, 1 << 16));
  found.intra_op_spinning = part["intra_op_spinning"].boolean();
  found.enable_cpu_mem_arena = part["enable_cpu_mem_arena"].boolean();
  found.optimization = part["graph_optimization_level"].one_of<Optimization>({{"all", Optimization::all},
                                                                              {"extended", Optimization::extended},
                                                                              {"basic", Optimization::basic},
                                                                              {"none", Optimization::none}});
  return found;
}

inline ImageContract read_image(const Part& part) {
  constexpr std::int64_t most_values = std::int64_t{1} << 26;
  ImageContract found;
  found.colour = part["colour"].one_of<Colour>({{"RGB", Colour::rgb}, {"BGR", Colour::bgr}, {"gray", Colour::gray}});
  found.layout = part["layout"].one_of<Layout>({{"NCHW", Layout::nchw}, {"NHWC", Layout::nhwc}});
  found.height = part["height"].whole(1, most_values);
  found.width = part["width"].whole(1, most_values);
  if (found.height * found.width * found.channels() > most_values) part["height"].refuse();
  const auto as_float = [](const Part& constant) {
    const double number = constant.number();
    if (std::abs(number) > 1e30) constant.refuse();
    return static_cast<float>(number);
  };
  found.mean = part["mean"].list(as_float);
  found.deviation = part["std"].list([&](const Part& constant) {
    if (!(constant.number() > 1e-30)) constant.refuse();
    return as_float(constant);
  });
  const auto channels = static_cast<std::size_t>(found.channels());
  if (found.mean.size() != channels) part["mean"].refuse();
  if (found.deviation.size() != channels) part["std"].refuse();
  if (part["resize"].text() != "cover-bicubic") part["resize"].refuse();
  return found;
}

inline TextContract read_text(const Part& part) {
  const auto number = [&](const char* key) { return part[key].whole(0, most_extent); };
  const auto name = [&](const char* key) {
    return part[key].is_null() ? std::nullopt : std::optional(part[key].text());
  };
  TextContract found;
  found.vocabulary = part["vocabulary"].path();
  found.characters = part["characters"].path();
  found.unknown = number("unknown");
  found.first = number("first");
  found.last = number("last");
  found.continuation = part["continuation"].text();
  found.longest_word = static_cast<std::size_t>(part["longest_word"].whole(0, most_length));
  found.longest = static_cast<std::size_t>(part["longest"].whole(2, most_length));
  found.ids = part["ids"].text();
  found.mask = name("mask");
  found.types = name("types");
  return found;
}

inline TextVector read_text_vector(const Part& part) {
  return {part["text"].text(), part["ids"].list([](const Part& id) { return id.whole(0, most_extent); })};
}

inline ImageVector read_image_vector(const Part& part) {
  ImageVector found{read_tensor(part["pixels"]), part["sha256"].sha256()};
  const Shape& shape = found.pixels.shape;
  const bool right = shape.size() == 3 && shape[0] > 0 && shape[1] > 0 && shape[2] == 3;
  if (!right || found.pixels.dtype != Dtype::uint8) part["pixels"].refuse();
  return found;
}

inline ExpectedOutput read_expected(const Part& part, std::int64_t runs) {
  const double tolerance = part["tolerance"].number();
  if (!(tolerance >= 0)) part["tolerance"].refuse();
  return {read_runs(part, runs), tolerance};
}

// Returns whether two lists have the same names, in any order.
template <class One, class Other, class NameOfOne, class NameOfOther>
bool same_names(const One& one, const Other& other, NameOfOne name_of_one, NameOfOther name_of_other) {
  std::vector<std::string> first;
  std::vector<std::string> second;
  for (const auto& entry : one) first.push_back(name_of_one(entry));
  for (const auto& entry : other) second.push_back(name_of_other(entry));
  std::sort(first.begin(), first.end());
  std::sort(second.begin(), second.end());
  return first == second;
}

inline Manifest read_manifest(const Part& part) {
  Manifest found;
  found.name = part["name"].text();
  found.files = part["files"].list([](const Part& file) {
    const auto bytes = static_cast<std::uint64_t>(file["bytes"].whole(0, most_extent));
    return FileRecord{file["path"].path(), bytes, file["sha256"].sha256()};
  });
  found.least_onnxruntime = part["runtime"]["onnxruntime"]["least"].text();
  found.inputs = part["inputs"].list(read_value);
  found.outputs = part["outputs"].list(read_value);
  if (found.outputs.empty()) part["outputs"].refuse();
  if (!part["image"].is_null()) found.image = read_image(part["image"]);
  if (!part["text"].is_null()) found.text = read_text(part["text"]);
  found.labels = part["labels"].list([](const Part& label) { return label.text(); });

  std::map<std::string, SessionSettings> sessions;
  part["variants"].list([&](const Part& variant) {
    return sessions.emplace(variant["path"].path(), read_session(variant["session"])).second;
  });
  const Part golden = part["golden"];
  found.runs = golden["runs"].whole(1, most_extent);
  found.golden = golden["inputs"].list([&](const Part& input) { return read_runs(input, found.runs); });
  const auto name = [](const auto& entry) { return entry.name; };
  if (!same_names(found.golden, found.inputs, name, name)) golden["inputs"].refuse();

  const Part targets = part["targets"];
  for (const std::string& target : targets.keys()) {
    const Part choice = targets[target];
    const std::string model = choice["model"].path();
    if (sessions.count(model) == 0) choice["model"].refuse();
    const Part outputs = choice["expected"]["outputs"];
    auto expected = outputs.list([&](const Part& output) { return read_expected(output, found.runs); });
    const auto name_of_expected = [](const ExpectedOutput& entry) { return entry.tensor.name; };
    if (!same_names(expected, found.outputs, name_of_expected, name)) outputs.refuse();
    found.targets[target] = {model, sessions[model], std::move(expected)};
  }
  found.images = part["preparation"]["images"].list(read_image_vector);
  if (!found.images.empty() && !found.image) part["image"].refuse();
  found.texts = part["preparation"]["texts"].list(read_text_vector);
  if (!found.texts.empty() && !found.text) part["text"].refuse();
  return found;
}

}  // namespace detail

namespace detail {

// Throws unless the content of a manifest is signed with a key.
inline void require_signed(const Folder& folder, const std::string& content, const std::string& public_key) {
  constexpr std::uint64_t most_bytes = 64;
  std::string signature;
  try {
    signature = folder.read_unchecked(signature_name, most_bytes);
  } catch (const std::system_error&) {
    signature.clear();  // that is no signature
  }
  if (is_signed(content, signature, public_key)) return;
  throw Error(std::string(manifest_name) + ": its signature is not of the given key");
}

}  // namespace detail

// Reads the manifest of a bundle; the files that it names are not looked at. With a public key, 64 hexadecimal
// digits, it has to be signed.
inline Manifest read_manifest(const Folder& folder, const std::optional<std::string>& public_key = std::nullopt) {
  constexpr std::uint64_t most_bytes = std::uint64_t{1} << 26;
  const std::string name = manifest_name;
  json::Value data;
  try {
    const std::string content = folder.read_unchecked(name, most_bytes);
    if (public_key) detail::require_signed(folder, content, *public_key);
    data = json::parse(content);
  } catch (const std::system_error& error) {
    throw Error(name + ": cannot be read: " + error.code().message());
  } catch (const json::SyntaxError& error) {
    throw Error(name + ": cannot be read: " + error.what());
  }
  const json::Value* schema = data.find("schema");
  const bool known = schema != nullptr && schema->kind == json::Kind::text;
  if (!known || schema->literal != manifest_schema) {
    throw Error(name + ": its schema is " + (known ? schema->literal : "none") + "; this package reads " +
                manifest_schema + ": update the package");
  }
  return detail::read_manifest(detail::Part(data, ""));
}

// Reads a tensor's values, which have to fill its shape.
inline Tensor read_stored(const Folder& folder, const Manifest& manifest, const StoredTensor& stored) {
  const FileRecord& file = manifest.file(stored.path);
  if (byte_count(stored.dtype, stored.shape) != file.bytes) throw Manifest::not_as_specified(stored.where + ".shape");
  folder.check(file);
  Tensor tensor(stored.dtype, stored.shape);
  const std::vector<std::byte> content = folder.content(file);
  std::copy(content.begin(), content.end(), tensor.bytes().begin());
  return tensor;
}

}  // namespace edgekd
