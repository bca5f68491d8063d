// The calibration in progress: which layers wait for how many batches, and the record file they fill.
//
// Progress belongs to (record file, layer) in the process, not to a session. A book is opened by
// update_batch_norms, quantize_preprocess or quantize_model, filled by the calibration ops, and written as a
// whole to a temporary file that is then renamed: a reader, or a killed run, sees the old file or the new
// one. No TensorFlow here.

#ifndef AMCT_TENSORFLOW_OPS_CALIBRATION_RECORD_BOOK_H_
#define AMCT_TENSORFLOW_OPS_CALIBRATION_RECORD_BOOK_H_

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "activation_state.h"
#include "balance_state.h"
#include "batch_norm_state.h"
#include "rounding_book.h"
#include "shift_state.h"

namespace amct {

enum class LogLevel { kDebug = 0, kInfo = 1, kWarning = 2, kError = 3 };
using LogSink = void (*)(int level, const char* message);

// Where messages go: nowhere until the Python side sets a sink.
void SetLogSink(LogSink sink);
void Log(LogLevel level, const std::string& message);

// One `record` of the file. Absent factors are empty vectors.
struct LayerEntry {
    std::string name;
    std::vector<float> scale_w;
    std::vector<float> scale_d;
    std::vector<int32_t> offset_d;
    std::vector<uint32_t> shift_bit;
    std::vector<float> balance_factors;
    bool skip_fusion = false;
    bool wants_activation = true;
    bool wants_weights = false;
    bool wants_shift = false;
    bool wants_balance = false;
    bool wants_moments = false;
    bool has_moments = false;
    double mean_square_error = 0;                 // of the quantized activation
    std::shared_ptr<ActivationState> activation;  // once its op has run
    std::shared_ptr<ShiftState> shift;
    std::shared_ptr<BalanceState> balance;
    std::string weights_text;  // the lines of scale_w and offset_w, most of the file, once they are made

    bool IsComplete() const {
        return (!wants_activation || !scale_d.empty()) && (!wants_weights || !scale_w.empty()) &&
               (!wants_shift || !shift_bit.empty()) && (!wants_balance || !balance_factors.empty()) &&
               (!wants_moments || has_moments);
    }
};

class RecordBook {
 public:
    RecordBook(std::string path, int64_t batch_num, int64_t generation)
        : path_(std::move(path)), batch_num_(batch_num), generation_(generation) {}

    int64_t batch_num() const { return batch_num_; }
    int64_t generation() const { return generation_; }

    void AddLayer(LayerEntry entry);
    // Of layers that were added.
    void AddRoundingPlan(RoundingPlan plan);
    // A batch norm has no entry in the record: its statistics are in the file beside it.
    void AddBatchNorm(const std::string& name, std::shared_ptr<BatchNormState> state);

    // Forgets all batches and what they led to; the factors that were known before stay.
    void Restart();

    // The states that the ops of these layers share across sessions; made on first use.
    std::shared_ptr<ActivationState> Activation(const std::vector<std::string>& layers);
    std::shared_ptr<ShiftState> Shift(const std::string& layer);
    std::shared_ptr<BalanceState> Balance(const std::string& layer);
    std::shared_ptr<MomentsState> Moments(const std::string& name);
    // That of a batch norm that was added, else null.
    std::shared_ptr<BatchNormState> BatchNorm(const std::string& name);

    // Results, written to the file when all layers are complete or the last write is some time ago. When they
    // are complete, the weights are rounded, too. They return an error message, empty when all is well.
    std::string SetActivation(const std::vector<std::string>& layers, const ActivationFactors& factors,
                              const ParallelFor& parallel_for);
    std::string SetWeights(const std::vector<std::string>& layers, const float* weights,
                           const ChannelView& view, const std::vector<float>& scales,
                           const ParallelFor& parallel_for);
    std::string SetShift(const std::string& layer, const std::vector<uint32_t>& shift,
                         const ParallelFor& parallel_for);
    std::string SetBalance(const std::string& layer, const std::vector<float>& factors);
    std::string SetMoments(const std::vector<std::string>& layers, const ParallelFor& parallel_for);
    std::string CompleteBatchNorm(const ParallelFor& parallel_for);

    // Writes the files for the first time, or only if they lack a result. They return an error message, empty
    // when all is well.
    std::string Write();
    std::string Flush(const ParallelFor& parallel_for);

    // Batches that all wanted ops of the layer, or batch norm, have seen; -1 when it is not in the book.
    int64_t BatchesSeen(const std::string& layer);

 private:
    LayerEntry* Find(const std::string& layer);
    std::string WriteIfDue(const ParallelFor& parallel_for);
    std::string WriteLocked();
    std::string WriteBeside(const std::vector<std::string>& layers);
    bool IsComplete() const;
    bool HasStatistics() const;
    std::string RoundAndWrite(const ParallelFor& parallel_for);
    std::optional<InputFactors> FactorsOf(const std::string& layer);
    void WarnOfIdenticalBatches();

    // The file beside the record that has what is not part of it.
    std::string RoundingPath() const { return path_ + ".safetensors"; }

    const std::string path_;
    const int64_t batch_num_;
    const int64_t generation_;
    std::mutex mutex_;
    std::vector<LayerEntry> entries_;
    std::map<std::string, size_t> index_;
    std::map<std::string, std::shared_ptr<ActivationState>> activations_;
    std::map<std::string, std::shared_ptr<ShiftState>> shifts_;
    std::map<std::string, std::shared_ptr<BalanceState>> balances_;
    std::map<std::string, std::shared_ptr<BatchNormState>> batch_norms_;
    RoundingBook rounding_;
    bool has_unwritten_ = false;
    std::chrono::steady_clock::time_point last_write_;
};

// Opens a fresh book for the path, forgetting an earlier one; returns its generation.
int64_t OpenRecordBook(const std::string& path, int64_t batch_num);
void CloseRecordBook(const std::string& path);

// The book of the path; null when none is open or it is of another generation (the graph was made by an
// earlier quantize_model).
std::shared_ptr<RecordBook> FindRecordBook(const std::string& path);
std::shared_ptr<RecordBook> FindRecordBook(const std::string& path, int64_t generation);

}  // namespace amct

#endif  // AMCT_TENSORFLOW_OPS_CALIBRATION_RECORD_BOOK_H_
