// A library that says it is onnxruntime 1.16.N, where N is what ORT_DISABLE_TELEMETRY was when it was loaded.

#include <onnxruntime_c_api.h>

#include <cstdlib>
#include <string>

namespace {

std::string found() {
  const char* telemetry = std::getenv("ORT_DISABLE_TELEMETRY");
  return std::string("1.16.") + (telemetry != nullptr ? telemetry : "unset");
}

const std::string version = found();

}  // namespace

extern "C" const OrtApiBase* ORT_API_CALL OrtGetApiBase() NO_EXCEPTION {
  static const OrtApiBase base{[](std::uint32_t) noexcept -> const OrtApi* { return nullptr; },
                               []() noexcept { return version.c_str(); }};
  return &base;
}
