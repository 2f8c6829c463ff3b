// Scores rows by the compiled graph of a package, without Python.
//
//     seo-rec export RUN --out PACKAGE --format onnx,aoti
//     serve PACKAGE/model.pt2 N C < rows.txt
//
// A line of the input is a row: its N numbers and then its C ids, with spaces between, as the
// preparation of the package makes them of raw cells. A line of the output is a score. It is for
// packages whose columns have at most one id in a row; -1 stands for none.
//
// A .pt2 file is machine code that runs when it is loaded: give this program none of a source that
// you do not trust.
//
// How it is built (TORCH is the folder of the installed torch package):
//
//     g++ -std=c++20 -O2 serve.cpp -o serve -I TORCH/include -I TORCH/include/torch/csrc/api/include \
//         -L TORCH/lib -Wl,-rpath,TORCH/lib -ltorch_cpu -lc10

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

namespace {

constexpr std::size_t kBatch = 512;  // rows that are scored in one call

struct Rows {
    std::vector<float> numbers;
    std::vector<std::int64_t> ids;
    std::int64_t size = 0;
};

// One row of the line, behind those there are; false if the line is no row.
bool read_row(const std::string& line, int num_numbers, int num_ids, Rows& rows) {
    std::istringstream cells(line);
    float number;
    std::int64_t id;
    for (int i = 0; i < num_numbers; ++i) {
        if (!(cells >> number)) return false;
        rows.numbers.push_back(number);
    }
    for (int i = 0; i < num_ids; ++i) {
        if (!(cells >> id)) return false;
        rows.ids.push_back(id);
    }
    ++rows.size;
    std::string more;
    return !(cells >> more);
}

void write_scores(torch::inductor::AOTIModelPackageLoader& model, Rows& rows, int num_numbers,
                  int num_ids) {
    if (rows.size == 0) return;
    std::vector<at::Tensor> inputs;  // in the order of the package's signature
    if (num_numbers > 0)
        inputs.push_back(at::from_blob(rows.numbers.data(), {rows.size, num_numbers}));
    if (num_ids > 0)
        inputs.push_back(at::from_blob(rows.ids.data(), {rows.size, num_ids}, at::kLong));
    const at::Tensor logits = model.run(inputs)[0].contiguous();
    for (std::int64_t i = 0; i < rows.size; ++i)
        std::printf("%.9g\n", 1.0 / (1.0 + std::exp(-double(logits.data_ptr<float>()[i]))));
    rows = Rows();
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 4) {
        std::cerr << "error: call it as serve MODEL.pt2 NUMBERS IDS < rows.txt\n";
        return 2;
    }
    const int num_numbers = std::atoi(argv[2]), num_ids = std::atoi(argv[3]);
    try {
        const c10::InferenceMode guard;
        torch::inductor::AOTIModelPackageLoader model(argv[1]);
        Rows rows;
        std::string line;
        for (std::size_t number = 1; std::getline(std::cin, line); ++number) {
            if (!read_row(line, num_numbers, num_ids, rows)) {
                std::cerr << "error: line " << number << ": a row has " << num_numbers
                          << " numbers and " << num_ids << " ids\n";
                return 2;
            }
            if (rows.size == kBatch) write_scores(model, rows, num_numbers, num_ids);
        }
        write_scores(model, rows, num_numbers, num_ids);
    } catch (const std::exception& error) {
        std::cerr << "error: " << error.what() << "\n";
        return 1;
    }
}
