// SPDX-License-Identifier: Apache-2.0
// The files of a bundle: nothing outside of it is read, and nothing that is not as its manifest says.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "error.hpp"
#include "sha256.hpp"

namespace edgekd {

// A file as the manifest has it.
struct FileRecord {
  std::string path;
  std::uint64_t bytes = 0;
  std::string sha256;
};

// Throws unless a path is made of plain names, which cannot leave the bundle.
inline void require_plain(const std::string& path) {
  const auto refuse = [&] { throw Error(path + ": a path that leaves the bundle"); };
  char before = '/';
  for (const char letter : path) {
    const bool word = (letter >= '0' && letter <= '9') || (letter >= 'A' && letter <= 'Z') ||
                      (letter >= 'a' && letter <= 'z') || letter == '_';
    const bool inner = letter == '-' || letter == '.' || letter == '/';
    if (!word && (!inner || before == '/')) refuse();
    before = letter;
  }
  if (before == '/') refuse();
}

class Folder {
 public:
  explicit Folder(const std::filesystem::path& folder) : folder_(folder) {
    std::error_code error;
    root_ = std::filesystem::canonical(folder, error);
    if (error) root_.clear();  // whatever is read says that it is missing
  }

  // Reads a file that no manifest speaks of. Throws std::system_error.
  std::string read_unchecked(const std::string& name, std::uint64_t most_bytes) const {
    const std::filesystem::path path = folder_ / name;
    if (std::filesystem::file_size(path) > most_bytes) {
      throw std::system_error(std::make_error_code(std::errc::file_too_large));
    }
    std::string content;
    read(path, [&](const char* bytes, std::size_t size) { content.append(bytes, size); });
    return content;
  }

  // Throws unless a file is there as the manifest has it.
  void check(const FileRecord& file) const {
    verify(file, [](const char*, std::size_t) {});
  }

  // Returns the content of a file, which is as the manifest has it.
  std::vector<std::byte> content(const FileRecord& file) const {
    std::vector<std::byte> content;
    verify(file, [&](const char* bytes, std::size_t size) {
      if (content.empty()) content.reserve(static_cast<std::size_t>(file.bytes));  // its length is right by now
      const auto* first = reinterpret_cast<const std::byte*>(bytes);
      content.insert(content.end(), first, first + size);
    });
    return content;
  }

 private:
  std::filesystem::path folder_;
  std::filesystem::path root_;

  // Gives `take` the bytes of a file, part by part. Throws std::system_error.
  template <class Take>
  static void read(const std::filesystem::path& path, Take take) {
    std::ifstream stream(path, std::ios::binary);
    std::vector<char> buffer(std::size_t{1} << 16);
    while (stream) {
      stream.read(buffer.data(), static_cast<std::streamsize>(buffer.size()));
      take(buffer.data(), static_cast<std::size_t>(stream.gcount()));
    }
    if (!stream.eof()) throw std::system_error(std::make_error_code(std::errc::io_error));
  }

  // Bytes are hashed as they are read: what `take` got is what was checked, if this returns.
  template <class Take>
  void verify(const FileRecord& file, Take take) const {
    const std::filesystem::path path = inside(file.path);
    try {
      require_length(file, std::filesystem::file_size(path));
      Sha256 hash;
      std::uint64_t length = 0;
      read(path, [&](const char* bytes, std::size_t size) {
        length += size;
        if (length > file.bytes) require_length(file, length);
        hash.update(bytes, size);
        take(bytes, size);
      });
      require_length(file, length);
      if (hash.hex() != file.sha256) {
        throw Error(file.path + ": its sha256 is not that of the manifest: damaged or changed");
      }
    } catch (const std::system_error& error) {
      throw Error(file.path + ": cannot be read: " + error.code().message());
    }
  }

  static void require_length(const FileRecord& file, std::uint64_t length) {
    if (length == file.bytes) return;
    throw Error(file.path + ": " + std::to_string(length) + " bytes, expected " + std::to_string(file.bytes) +
                ": truncated or changed");
  }

  // Returns where a file really lies, which is inside the bundle.
  std::filesystem::path inside(const std::string& name) const {
    require_plain(name);
    std::error_code error;
    const std::filesystem::path path = std::filesystem::canonical(root_ / std::filesystem::path(name), error);
    if (error || root_.empty() || !std::filesystem::is_regular_file(path, error)) throw Error(name + ": missing");
    const auto ends = std::mismatch(root_.begin(), root_.end(), path.begin(), path.end());
    if (ends.first != root_.end()) throw Error(name + ": a path that leaves the bundle");
    return path;
  }
};

}  // namespace edgekd
