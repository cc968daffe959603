// SPDX-License-Identifier: Apache-2.0
// onnxruntime through its C API, owned by objects.
//
// The library is loaded at run time and asked for version 17 of its API, so that any onnxruntime from 1.17 on will do;
// a program that is linked with it demands the version of its header. Only functions of that API may be used here.
#pragma once

#include <onnxruntime_c_api.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "error.hpp"
#include "manifest.hpp"
#include "system.hpp"
#include "tensor.hpp"

namespace edgekd {

namespace detail {

constexpr std::uint32_t api_version = 17;
constexpr const char* api_release = "1.17.0";

// Reads "1.32.0" as numbers; what follows them, as in "1.32.0-rc1", does not count.
inline std::array<long, 3> version_numbers(const std::string& text) {
  std::array<long, 3> numbers{};
  std::istringstream stream(text);
  stream.imbue(std::locale::classic());
  for (long& number : numbers) {
    if (!(stream >> number)) number = 0;
    stream.ignore(1);  // the point
  }
  return numbers;
}

inline const std::array<std::pair<Dtype, ONNXTensorElementDataType>, 12> element_types{{
    {Dtype::boolean, ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL},
    {Dtype::int8, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8},
    {Dtype::uint8, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8},
    {Dtype::int16, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16},
    {Dtype::uint16, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16},
    {Dtype::int32, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32},
    {Dtype::uint32, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32},
    {Dtype::int64, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64},
    {Dtype::uint64, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64},
    {Dtype::float16, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16},
    {Dtype::float32, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT},
    {Dtype::float64, ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE},
}};

// Owns an object of the C API.
template <class T>
using Owned = std::unique_ptr<T, void(ORT_API_CALL*)(T*)>;

}  // namespace detail

// A loaded onnxruntime.
class Runtime {
 public:
  // Loads onnxruntime and throws if it is older than `least`.
  //
  // `library` is a file or a name that the system looks for; empty: that of the environment variable
  // EDGEKD_ONNXRUNTIME, or else the system's usual name, such as libonnxruntime.so.
  Runtime(std::filesystem::path library, const std::string& least) {
    const char* named = std::getenv("EDGEKD_ONNXRUNTIME");
    if (library.empty()) library = named != nullptr && *named != '\0' ? named : detail::default_library;
    detail::set_default("ORT_DISABLE_TELEMETRY", "1");  // read while the library is loaded
    const auto get_base =
        reinterpret_cast<decltype(&OrtGetApiBase)>(detail::load_function(library, "OrtGetApiBase"));
    const OrtApiBase* base = get_base();
    version_ = base->GetVersionString();
    const std::string needed =
        std::max(least, std::string(detail::api_release), [](const std::string& one, const std::string& other) {
          return detail::version_numbers(one) < detail::version_numbers(other);
        });
    const bool new_enough = detail::version_numbers(version_) >= detail::version_numbers(needed);
    api_ = new_enough ? base->GetApi(detail::api_version) : nullptr;
    if (api_ == nullptr) {
      throw Error("onnxruntime " + version_ + " is too old for these models, which need " + needed);
    }
    OrtEnv* environment = nullptr;
    check(api_->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "edgekd", &environment));
    environment_ = {environment, api_->ReleaseEnv};
  }

  const std::string& version() const { return version_; }
  const OrtApi& api() const { return *api_; }
  OrtEnv* environment() const { return environment_.get(); }

  // Throws if a call failed.
  void check(OrtStatus* status) const {
    const detail::Owned<OrtStatus> owned{status, api_->ReleaseStatus};
    if (owned) throw Error(std::string("onnxruntime: ") + api_->GetErrorMessage(owned.get()));
  }

 private:
  std::string version_;
  const OrtApi* api_ = nullptr;
  detail::Owned<OrtEnv> environment_{nullptr, nullptr};
};

// An open model. Several threads may run it at a time.
class Session {
 public:
  // `model` is the content of its file; it is not needed any longer when this returns.
  Session(std::shared_ptr<const Runtime> runtime, const std::vector<std::byte>& model, const SessionSettings& settings)
      : runtime_(std::move(runtime)) {
    const OrtApi& api = runtime_->api();
    OrtSessionOptions* created = nullptr;
    check(api.CreateSessionOptions(&created));
    const detail::Owned<OrtSessionOptions> options{created, api.ReleaseSessionOptions};
    check(api.SetIntraOpNumThreads(created, settings.intra_op_num_threads));
    check(api.SetSessionGraphOptimizationLevel(created, level(settings.optimization)));
    if (!settings.enable_cpu_mem_arena) check(api.DisableCpuMemArena(created));
    const char* spinning = settings.intra_op_spinning ? "1" : "0";
    check(api.AddSessionConfigEntry(created, "session.intra_op.allow_spinning", spinning));
    OrtSession* session = nullptr;
    check(api.CreateSessionFromArray(runtime_->environment(), model.data(), model.size(), created, &session));
    session_ = {session, api.ReleaseSession};
    OrtMemoryInfo* memory = nullptr;
    check(api.CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &memory));
    memory_ = {memory, api.ReleaseMemoryInfo};
  }

  // Returns the outputs of those names.
  std::map<std::string, Tensor> run(const std::map<std::string, Tensor>& inputs,
                                    const std::vector<std::string>& outputs) const {
    const OrtApi& api = runtime_->api();
    std::vector<const char*> input_names;
    std::vector<detail::Owned<OrtValue>> owned;
    std::vector<const OrtValue*> input_values;
    for (const auto& [name, tensor] : inputs) {
      input_names.push_back(name.c_str());
      owned.push_back(view(tensor));
      input_values.push_back(owned.back().get());
    }
    std::vector<const char*> output_names;
    for (const std::string& name : outputs) output_names.push_back(name.c_str());
    std::vector<OrtValue*> output_values(outputs.size(), nullptr);
    OrtStatus* status = api.Run(session_.get(), nullptr, input_names.data(), input_values.data(), input_values.size(),
                                output_names.data(), output_names.size(), output_values.data());
    for (OrtValue* value : output_values) owned.emplace_back(value, api.ReleaseValue);
    check(status);
    std::map<std::string, Tensor> found;
    for (std::size_t i = 0; i < outputs.size(); ++i) found.emplace(outputs[i], copy(output_values[i]));
    return found;
  }

 private:
  std::shared_ptr<const Runtime> runtime_;
  detail::Owned<OrtSession> session_{nullptr, nullptr};
  detail::Owned<OrtMemoryInfo> memory_{nullptr, nullptr};

  void check(OrtStatus* status) const { runtime_->check(status); }

  static GraphOptimizationLevel level(Optimization optimization) {
    switch (optimization) {
      case Optimization::none: return ORT_DISABLE_ALL;
      case Optimization::basic: return ORT_ENABLE_BASIC;
      case Optimization::extended: return ORT_ENABLE_EXTENDED;
      case Optimization::all: break;
    }
    return ORT_ENABLE_ALL;
  }

  // Returns onnxruntime's view of a tensor's own memory; it does not write there.
  detail::Owned<OrtValue> view(const Tensor& tensor) const {
    const OrtApi& api = runtime_->api();
    OrtValue* value = nullptr;
    const auto& bytes = tensor.bytes();
    check(api.CreateTensorWithDataAsOrtValue(memory_.get(), const_cast<std::byte*>(bytes.data()), bytes.size(),
                                             tensor.shape().data(), tensor.shape().size(),
                                             detail::element_types[static_cast<std::size_t>(tensor.dtype())].second,
                                             &value));
    return {value, api.ReleaseValue};
  }

  Tensor copy(OrtValue* value) const {
    const OrtApi& api = runtime_->api();
    OrtTensorTypeAndShapeInfo* created = nullptr;
    check(api.GetTensorTypeAndShape(value, &created));
    const detail::Owned<OrtTensorTypeAndShapeInfo> info{created, api.ReleaseTensorTypeAndShapeInfo};
    ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    check(api.GetTensorElementType(created, &type));
    std::size_t axes = 0;
    check(api.GetDimensionsCount(created, &axes));
    Shape shape(axes);
    check(api.GetDimensions(created, shape.data(), axes));
    const auto& types = detail::element_types;
    const auto place = std::find_if(types.begin(), types.end(), [&](const auto& entry) { return entry.second == type; });
    if (place == types.end()) throw Error("an output of a type that this package does not read");
    Tensor tensor(place->first, std::move(shape));
    void* data = nullptr;
    check(api.GetTensorMutableData(value, &data));
    if (!tensor.bytes().empty()) std::memcpy(tensor.bytes().data(), data, tensor.bytes().size());
    return tensor;
  }
};

}  // namespace edgekd
