// The few functions that Python calls without TensorFlow, through ctypes.
//
// Strings are UTF-8 and borrowed for the call. A function that can fail returns an error message, valid until
// the next call on the same thread, or null.

#include <algorithm>
#include <cstdint>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "../numerics/arq.h"
#include "record_book.h"

namespace {

const char* ErrorOrNull(std::string message) {
    thread_local std::string kept;
    kept = std::move(message);
    return kept.empty() ? nullptr : kept.c_str();
}

// A ParallelFor without TensorFlow: as many pieces as there are processors.
void InThreads(int64_t total, int64_t /*cost*/, const std::function<void(int64_t, int64_t)>& fn) {
    const int64_t pieces = std::min<int64_t>(total, std::max(1u, std::thread::hardware_concurrency()));
    std::vector<std::thread> threads;
    for (int64_t piece = 0; piece < pieces; ++piece) {
        threads.emplace_back(fn, piece * total / pieces, (piece + 1) * total / pieces);
    }
    for (std::thread& thread : threads) {
        thread.join();
    }
}

}  // namespace

extern "C" {

void AmctSetLogSink(amct::LogSink sink) { amct::SetLogSink(sink); }

int64_t AmctOpenRecordBook(const char* path, int64_t batch_num) {
    return amct::OpenRecordBook(path, batch_num);
}

void AmctCloseRecordBook(const char* path) { amct::CloseRecordBook(path); }

void AmctRestartCalibration(const char* path) {
    const auto book = amct::FindRecordBook(path);
    if (book != nullptr) {
        book->Restart();
    }
}

// scale_w may be null with scale_count 0: the weights are calibrated by an op, or there are none. Likewise
// the balance_factors.
void AmctAddLayer(const char* path, const char* layer, const float* scale_w, int64_t scale_count,
                  const float* balance_factors, int64_t balance_count, int wants_activation,
                  int wants_weights, int wants_shift, int wants_balance, int skip_fusion,
                  int64_t zero_shifts) {
    const auto book = amct::FindRecordBook(path);
    if (book == nullptr) {
        return;
    }
    amct::LayerEntry entry;
    entry.name = layer;
    entry.scale_w.assign(scale_w, scale_w + scale_count);
    entry.balance_factors.assign(balance_factors, balance_factors + balance_count);
    entry.wants_activation = wants_activation != 0;
    entry.wants_weights = wants_weights != 0;
    entry.wants_shift = wants_shift != 0;
    entry.wants_balance = wants_balance != 0;
    entry.skip_fusion = skip_fusion != 0;
    entry.shift_bit.assign(zero_shifts, 0);
    book->AddLayer(std::move(entry));
}

// Plans the rounding of weights that the layers share. Their names, and those of the moments of their inputs,
// are separated by line ends; `layout` has the fields of WeightLayout in their order. Weights may be null: an
// op finds them, and their scales.
void AmctAddRoundingPlan(const char* path, const char* layers, const char* moments, const int64_t* shape,
                         int64_t rank, const int64_t* layout, int compensate, int correct_bias,
                         const float* weights, int64_t outer, int64_t channels, int64_t inner,
                         const float* scales) {
    const auto book = amct::FindRecordBook(path);
    if (book == nullptr) {
        return;
    }
    amct::RoundingPlan plan;
    std::istringstream names(layers), names_of_moments(moments);
    for (amct::PlannedLayer layer;
         std::getline(names, layer.name) && std::getline(names_of_moments, layer.moments);) {
        plan.layers.push_back(layer);
    }
    plan.shape.assign(shape, shape + rank);
    plan.layout = {layout[0], layout[1], layout[2], layout[3], layout[4], layout[5], layout[6], layout[7]};
    plan.compensate = compensate != 0;
    plan.correct_bias = correct_bias != 0;
    if (weights != nullptr) {
        plan.SetWeights(weights, {outer, channels, inner}, scales);
    }
    book->AddRoundingPlan(std::move(plan));
}

// Adds a batch norm with its statistics, of so many channels each. They are final, or the start of those that
// its op finds.
void AmctAddBatchNorm(const char* path, const char* name, const float* mean, const float* variance,
                      int64_t channels, int is_final) {
    const auto book = amct::FindRecordBook(path);
    if (book != nullptr) {
        const amct::MovingStatistics statistics(mean, variance, channels);
        book->AddBatchNorm(name, std::make_shared<amct::BatchNormState>(statistics, is_final != 0));
    }
}

// Writes the three numbers of an amct::WeightFingerprint.
void AmctWeightFingerprint(const float* weights, int64_t outer, int64_t channels, int64_t inner,
                           const float* scales, double* fingerprint) {
    const amct::WeightFingerprint found = amct::FingerprintOf(weights, {outer, channels, inner}, scales);
    std::copy(found.begin(), found.end(), fingerprint);
}

const char* AmctWriteRecord(const char* path) {
    const auto book = amct::FindRecordBook(path);
    return ErrorOrNull(book == nullptr ? "no calibration is open for " + std::string(path) : book->Write());
}

// Nothing to do, and no error, when no calibration of this path is open.
const char* AmctFlushRecord(const char* path) {
    const auto book = amct::FindRecordBook(path);
    return ErrorOrNull(book == nullptr ? "" : book->Flush(InThreads));
}

int64_t AmctBatchesWanted(const char* path) {
    const auto book = amct::FindRecordBook(path);
    return book == nullptr ? -1 : book->batch_num();
}

int64_t AmctBatchesSeen(const char* path, const char* layer) {
    const auto book = amct::FindRecordBook(path);
    return book == nullptr ? -1 : book->BatchesSeen(layer);
}

// Returns an amct::ScaleStatus.
int AmctArqScales(const float* weights, int64_t outer, int64_t channels, int64_t inner, int num_bits,
                  float* scales) {
    return static_cast<int>(amct::ArqScales(weights, {outer, channels, inner}, num_bits, scales));
}

void AmctQuantizeWeights(const float* weights, int64_t outer, int64_t channels, int64_t inner,
                         const float* scales, int num_bits, int8_t* output) {
    amct::QuantizeWeightsToInt8(weights, {outer, channels, inner}, scales, num_bits, output);
}

}  // extern "C"
