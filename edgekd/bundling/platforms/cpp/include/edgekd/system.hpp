// SPDX-License-Identifier: Apache-2.0
// What depends on the operating system and the CPU.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "error.hpp"

#if defined(_WIN32)
#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <windows.h>
#else
#include <dlfcn.h>
#endif

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#elif defined(_M_X64) || defined(_M_IX86)
#include <immintrin.h>
#include <intrin.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace edgekd::detail {

#if defined(_WIN32)
inline constexpr const char* default_library = "onnxruntime.dll";
#elif defined(__APPLE__)
inline constexpr const char* default_library = "libonnxruntime.dylib";
#else
inline constexpr const char* default_library = "libonnxruntime.so";
#endif

// Sets an environment variable that has no value yet.
inline void set_default(const char* name, const char* value) {
#if defined(_WIN32)
  if (GetEnvironmentVariableA(name, nullptr, 0) == 0) {
    SetEnvironmentVariableA(name, value);
    _putenv_s(name, value);
  }
#else
  setenv(name, value, 0);
#endif
}

// Returns a function of a shared library, which stays loaded to the end of the process.
inline void* load_function(const std::filesystem::path& library, const char* name) {
#if defined(_WIN32)
  const HMODULE handle = LoadLibraryW(library.c_str());
  void* found = handle != nullptr ? reinterpret_cast<void*>(GetProcAddress(handle, name)) : nullptr;
  if (found == nullptr) {
    throw Error("onnxruntime cannot be loaded: " + library.string() + ": error " + std::to_string(GetLastError()));
  }
  return found;
#else
  void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  void* found = handle != nullptr ? dlsym(handle, name) : nullptr;
  if (found == nullptr) {
    const char* why = dlerror();
    throw Error("onnxruntime cannot be loaded: " + (why != nullptr ? std::string(why) : library.string()));
  }
  return found;
#endif
}

#if defined(__x86_64__) || defined(__i386__) || defined(_M_X64) || defined(_M_IX86)

struct Registers {
  std::uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

inline Registers cpuid(std::uint32_t leaf, std::uint32_t subleaf) {
  Registers found;
#if defined(_MSC_VER)
  int words[4];
  __cpuidex(words, 0, 0);
  if (static_cast<std::uint32_t>(words[0]) < leaf) return found;
  __cpuidex(words, static_cast<int>(leaf), static_cast<int>(subleaf));
  found = {static_cast<std::uint32_t>(words[0]), static_cast<std::uint32_t>(words[1]),
           static_cast<std::uint32_t>(words[2]), static_cast<std::uint32_t>(words[3])};
#else
  __get_cpuid_count(leaf, subleaf, &found.eax, &found.ebx, &found.ecx, &found.edx);  // zeros beyond the last leaf
#endif
  return found;
}

// Returns the register states that the operating system saves; the CPU has to have OSXSAVE.
inline std::uint64_t saved_states() {
#if defined(_MSC_VER)
  return _xgetbv(0);
#else
  std::uint32_t low = 0;
  std::uint32_t high = 0;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return std::uint64_t{high} << 32 | low;
#endif
}

// Intel 64 and IA-32 Architectures Software Developer's Manual, vol. 2A, CPUID; vol. 1, 13.3.
inline std::string cpu_target() {
  constexpr std::uint64_t ymm = 0x06;
  constexpr std::uint64_t zmm = 0xe6;
  const bool has_states = (cpuid(1, 0).ecx >> 27 & 1) != 0;
  std::uint64_t states = has_states ? saved_states() : 0;
#if defined(__APPLE__)
  states |= zmm;  // macOS saves these registers from their first use on
#endif
  const bool avx512_vnni = (cpuid(7, 0).ecx >> 11 & 1) != 0 && (states & zmm) == zmm;
  const bool avx_vnni = (cpuid(7, 1).eax >> 4 & 1) != 0 && (states & ymm) == ymm;
  return avx512_vnni || avx_vnni ? "x86-vnni" : "x86-avx2";
}

#elif defined(__aarch64__) || defined(_M_ARM64)

inline std::string cpu_target() {
  bool dot_product = false;
  bool i8mm = false;
#if defined(__APPLE__)
  const auto has = [](const char* name) {
    int value = 0;
    std::size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value == 1;
  };
  dot_product = has("hw.optional.arm.FEAT_DotProd");
  i8mm = has("hw.optional.arm.FEAT_I8MM");
#elif defined(__linux__)
  // Linux, arch/arm64/include/uapi/asm/hwcap.h: what every core has.
  dot_product = (getauxval(AT_HWCAP) >> 20 & 1) != 0;
  i8mm = (getauxval(AT_HWCAP2) >> 13 & 1) != 0;
#elif defined(_WIN32)
  dot_product = IsProcessorFeaturePresent(43) != 0;  // PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE
#endif
  if (i8mm) return "arm64-i8mm";
  return dot_product ? "arm64-dotprod" : "arm64";
}

#else
#error "edgekd: there are targets for x86 and 64-bit ARM only"
#endif

}  // namespace edgekd::detail
