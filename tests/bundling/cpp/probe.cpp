// Asks single parts of the C++ package, so that a test can compare their answers.

#include <fstream>
#include <future>
#include <iomanip>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

#include "edgekd/self_test.hpp"

namespace {

using Arguments = std::vector<std::string>;

std::string content(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

void print_text(const std::string& text) {
  std::cout << '"';
  for (const char letter : text) {
    const auto code = static_cast<unsigned char>(letter);
    if (code < 0x20 || letter == '"' || letter == '\\') {
      std::cout << "\\u" << std::hex << std::setfill('0') << std::setw(4) << int{code};
    } else {
      std::cout << letter;
    }
  }
  std::cout << '"';
}

void print_json(const edgekd::json::Value& value) {
  const char* between = "";
  switch (value.kind) {
    case edgekd::json::Kind::null: std::cout << "null"; break;
    case edgekd::json::Kind::boolean: std::cout << (value.boolean ? "true" : "false"); break;
    case edgekd::json::Kind::number: std::cout << value.literal; break;
    case edgekd::json::Kind::text: print_text(value.literal); break;
    case edgekd::json::Kind::list:
      std::cout << '[';
      for (const auto& entry : value.list) {
        std::cout << between;
        print_json(entry);
        between = ",";
      }
      std::cout << ']';
      break;
    case edgekd::json::Kind::object:
      std::cout << '{';
      for (const auto& member : value.object) {
        std::cout << between;
        print_text(member.key);
        std::cout << ':';
        print_json(member.value);
        between = ",";
      }
      std::cout << '}';
      break;
  }
}

// What each file is as JSON, or why it is none.
void json(const Arguments& files) {
  for (const std::string& file : files) {
    try {
      const auto value = edgekd::json::parse(content(file));
      std::cout << "ok ";
      print_json(value);
      std::cout << "\n";
    } catch (const edgekd::json::SyntaxError& error) {
      std::cout << "no " << error.what() << "\n";
    }
  }
}

// What is wrong with each folder's manifest.
void manifests(const Arguments& folders) {
  for (const std::string& folder : folders) {
    try {
      edgekd::read_manifest(edgekd::Folder(folder));
      std::cout << "good\n";
    } catch (const edgekd::Error& error) {
      std::cout << error.what() << "\n";
    }
  }
}

// The sha256 of a file's beginnings of each length, read in uneven parts.
void sha256(const Arguments& files) {
  const std::string data = content(files[0]);
  for (std::size_t length = 0; length <= data.size(); ++length) {
    edgekd::Sha256 hash;
    const std::size_t first = length * 2 / 3;
    hash.update(data.data(), first);
    hash.update(data.data() + first, length - first);
    std::cout << hash.hex() << "\n";
  }
}

// classify BUNDLE ONNXRUNTIME PIXELS HEIGHT WIDTH CHANNELS TOP, twice at the same time.
void classify(const Arguments& given) {
  const edgekd::Bundle bundle(given[0], {given[1]});
  const std::string pixels = content(given[2]);
  std::vector<std::future<std::vector<edgekd::Score>>> found(2);
  for (auto& scores : found) {
    scores = std::async(std::launch::async, [&] {
      return bundle.classify(reinterpret_cast<const std::uint8_t*>(pixels.data()), std::stoul(given[3]),
                             std::stoul(given[4]), std::stoul(given[6]), std::stoul(given[5]));
    });
  }
  for (auto& answer : found) {
    const auto scores = answer.get();
    std::cout << std::setprecision(17) << "[";
    const char* between = "";
    for (const auto& score : scores) {
      std::cout << between << "[" << score.index << "," << score.score << ",";
      print_text(score.label);
      std::cout << "]";
      between = ",";
    }
    std::cout << "]\n";
  }
}

// texts BUNDLE ONNXRUNTIME: for each text on the standard input, its token numbers, and the answer to it.
//
// A text is its length, 4 bytes of this machine's order, and its bytes.
void texts(const Arguments& given) {
  const edgekd::Bundle bundle(given[0], {given[1]});
  std::uint32_t length = 0;
  while (std::cin.read(reinterpret_cast<char*>(&length), sizeof length)) {
    std::string text(length, '\0');
    std::cin.read(text.data(), static_cast<std::streamsize>(length));
    const auto inputs = bundle.prepare_text(text);
    const edgekd::Tensor& ids = inputs.at("input_ids");
    for (std::size_t i = 0; i < ids.size(); ++i) std::cout << ids.data<std::int64_t>()[i] << " ";
    std::cout << bundle.run(inputs).at("total").number(0) << "\n";
  }
}

// open BUNDLE ONNXRUNTIME KEY: the model that a bundle opens if it is signed.
void open(const Arguments& given) { std::cout << edgekd::Bundle(given[0], {given[1], given[2]}).model() << "\n"; }

// refuse BUNDLE ONNXRUNTIME: what is said to inputs that the model does not take.
void refuse(const Arguments& given) {
  const edgekd::Bundle bundle(given[0], {given[1]});
  const auto attempt = [&](const std::map<std::string, edgekd::Tensor>& inputs) {
    try {
      bundle.run(inputs);
      std::cout << "taken\n";
    } catch (const edgekd::Error& error) {
      std::cout << error.what() << "\n";
    }
  };
  const edgekd::Tensor right(edgekd::Dtype::float32, {2, 3, 20, 24});
  attempt({{"input", right}});
  attempt({{"image", right}});
  attempt({{"input", right}, {"image", right}});
  attempt({{"input", edgekd::Tensor({1}, std::vector<float>{1})}});
  attempt({{"input", edgekd::Tensor(edgekd::Dtype::float64, right.shape())}});
  attempt({{"input", edgekd::Tensor(edgekd::Dtype::float32, {2, 3, 20, 23})}});
  try {
    edgekd::Tensor({2, 2}, std::vector<float>{1, 2, 3});
  } catch (const edgekd::Error& error) {
    std::cout << error.what() << "\n";
  }
}

// The number of each binary16, in the order of their bits.
void halves(const Arguments&) {
  std::cout << std::setprecision(17);
  for (int bits = 0; bits < 1 << 16; ++bits) std::cout << edgekd::detail::from_half(static_cast<std::uint16_t>(bits)) << "\n";
}

}  // namespace

int main(int count, char** arguments) {
  const std::map<std::string, void (*)(const Arguments&)> modes{{"json", json},         {"manifests", manifests},
                                                                {"sha256", sha256},     {"classify", classify},
                                                                {"refuse", refuse},     {"halves", halves},
                                                                {"texts", texts},       {"open", open}};
  const Arguments given(arguments + 2, arguments + count);
  if (std::string(arguments[1]) == "selftest") return edgekd::self_test(given[0], {given[1]}, std::cout) ? 0 : 1;
  try {
    modes.at(arguments[1])(given);
  } catch (const edgekd::Error& error) {
    std::cout << error.what() << "\n";
    return 1;
  }
}
