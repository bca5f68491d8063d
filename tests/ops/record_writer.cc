// Writes the record file of a calibration, and that beside it, over and over: usage
// "record_writer PATH LAYERS".
//
// Compiled with record_book.cc and rounding_book.cc by test_record_survives_kill.py, which kills it. In write
// k, every layer has scale_w k and, from one write to the next, scale_d k + 1: a file that mixes two writes
// is told by its values.

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "../../amct_tensorflow/ops/calibration/record_book.h"

int main(int /*argc*/, char** argv) {
    const std::string path = argv[1];
    const int layers = std::atoi(argv[2]);
    std::vector<std::string> names;
    for (int i = 0; i < layers; ++i) {
        names.push_back("net/layer_" + std::to_string(i) + "/Conv2D");
    }
    for (int write = 1;; ++write) {
        amct::OpenRecordBook(path, 1);
        const auto book = amct::FindRecordBook(path);
        for (const std::string& name : names) {
            amct::LayerEntry entry;
            entry.name = name;
            entry.scale_w = {static_cast<float>(write)};
            entry.wants_weights = true;
            book->AddLayer(entry);
        }
        std::string error = book->Write();
        if (error.empty()) {
            amct::ActivationFactors factors;
            factors.scale = static_cast<float>(write + 1);
            factors.offset = write % 256 - 128;
            error = book->SetActivation(names, factors, amct::Serially);
        }
        if (!error.empty()) {
            std::puts(error.c_str());
            return 1;
        }
    }
}
