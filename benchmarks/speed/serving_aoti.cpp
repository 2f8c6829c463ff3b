// Times a compiled graph without Python, for benchmarks/speed/serving.py:
//
//     serving_aoti MODEL.pt2 IDS.bin C BATCH:CALLS...
//
// IDS.bin holds int64 ids, row after row, for the largest batch; if it holds more, batches of all of
// its rows take turns. It writes one line of JSON.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include <unistd.h>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

int main(int argc, char** argv) {
    if (argc < 5) return 2;
    at::set_num_threads(1);
    const c10::InferenceMode guard;
    torch::inductor::AOTIModelPackageLoader model(argv[1]);
    std::ifstream file(argv[2], std::ios::binary | std::ios::ate);
    const std::int64_t columns = std::atoll(argv[3]);
    std::vector<std::int64_t> ids(file.tellg() / sizeof(std::int64_t));
    file.seekg(0);
    file.read(reinterpret_cast<char*>(ids.data()), ids.size() * sizeof(std::int64_t));
    const std::int64_t given = ids.size() / columns;
    std::int64_t largest = 0;
    for (int i = 4; i < argc; ++i) largest = std::max<std::int64_t>(largest, std::atoll(argv[i]));
    const auto run = [&](std::int64_t rows, std::int64_t turn) {
        std::int64_t* first = ids.data() + turn * rows * columns;
        std::vector<at::Tensor> inputs{at::from_blob(first, {rows, columns}, at::kLong)};
        return model.run(inputs)[0];
    };
    std::printf("{\"nanoseconds\": {");
    for (int i = 4; i < argc; ++i) {
        const std::string words(argv[i]);
        const auto colon = words.find(':');
        const std::int64_t rows = std::stoll(words), calls = std::stoll(words.substr(colon + 1));
        const std::int64_t turns = given > largest ? given / rows : 1;
        std::printf("%s\"%lld\": [", i > 4 ? ", " : "", static_cast<long long>(rows));
        for (std::int64_t call = 0; call < 2 * calls; ++call) {
            const auto started = std::chrono::steady_clock::now();
            run(rows, call % turns);
            const std::chrono::nanoseconds took = std::chrono::steady_clock::now() - started;
            if (call >= calls)
                std::printf("%s%lld", call > calls ? ", " : "",
                            static_cast<long long>(took.count()));
        }
        std::printf("]");
    }
    const at::Tensor logits = run(largest, 0).contiguous();
    std::printf("}, \"logits\": [");
    for (std::int64_t i = 0; i < logits.numel(); ++i)
        std::printf("%s%.9g", i ? ", " : "", logits.data_ptr<float>()[i]);
    long pages = 0;
    if (std::FILE* memory = std::fopen("/proc/self/statm", "r")) {
        if (std::fscanf(memory, "%*s %ld", &pages) != 1) pages = 0;
        std::fclose(memory);
    }
    std::printf("], \"resident_bytes\": %ld}\n", pages * sysconf(_SC_PAGESIZE));
}
