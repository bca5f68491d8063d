#include "record_book.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "safetensors.h"

namespace amct {

namespace {

constexpr std::chrono::milliseconds kWriteInterval(200);

std::atomic<LogSink> log_sink{nullptr};

struct Books {
    std::mutex mutex;
    std::map<std::string, std::shared_ptr<RecordBook>> by_path;
    int64_t generations = 0;
};

Books& AllBooks() {
    static Books* books = new Books;  // never destroyed: ops may run while the process ends
    return *books;
}

void AppendFloat(const char* field, float value, std::string* text) {
    char line[64];
    const int size = std::snprintf(line, sizeof(line), "    %s: %.10g\n", field, static_cast<double>(value));
    text->append(line, size);
}

void AppendInteger(const char* field, int64_t value, std::string* text) {
    text->append("    ").append(field).append(": ").append(std::to_string(value)).append("\n");
}

std::string Escaped(const std::string& name) {
    std::string escaped;
    for (const char c : name) {
        if (c == '"' || c == '\\') {
            escaped += '\\';
        }
        escaped += c;
    }
    return escaped;
}

std::string WeightsText(const std::vector<float>& scale_w) {
    std::string text;
    for (const float scale : scale_w) {
        AppendFloat("scale_w", scale, &text);
    }
    for (size_t i = 0; i < scale_w.size(); ++i) {
        AppendInteger("offset_w", 0, &text);
    }
    return text;
}

std::string ToText(const LayerEntry& entry) {
    std::string text = "record {\n  key: \"" + Escaped(entry.name) + "\"\n  value {\n";
    for (const float scale : entry.scale_d) {
        AppendFloat("scale_d", scale, &text);
    }
    for (const int32_t offset : entry.offset_d) {
        AppendInteger("offset_d", offset, &text);
    }
    text += entry.weights_text;
    for (const uint32_t shift : entry.shift_bit) {
        AppendInteger("shift_bit", shift, &text);
    }
    for (const float factor : entry.balance_factors) {
        AppendFloat("tensor_balance_factor", factor, &text);
    }
    if (entry.skip_fusion) {
        text += "    skip_fusion: true\n";
    }
    return text + "  }\n}\n";
}

// Writes to a temporary file beside the path and renames it. Returns an error message, which calls the file
// by what it is, or nothing.
std::string ReplaceFile(const char* what, const std::string& path, const std::string& text) {
    const std::string temporary = path + ".tmp" + std::to_string(getpid());
    std::FILE* file = std::fopen(temporary.c_str(), "wb");
    bool written = file != nullptr;
    if (written) {
        written = std::fwrite(text.data(), 1, text.size(), file) == text.size();
        written = std::fclose(file) == 0 && written;
        written = written && std::rename(temporary.c_str(), path.c_str()) == 0;
    }
    if (written) {
        return "";
    }
    const std::string reason = std::strerror(errno);
    std::remove(temporary.c_str());
    return std::string(what) + " " + path + " cannot be written (" + reason +
           "); give a path to a file in a writable folder";
}

// Whether some layer, of those that are not zero throughout, saw batches that differ. `batches` receives the
// number of batches of the others.
template <typename States>
bool FindVariedBatches(const States& states, int64_t* batches) {
    for (const auto& [layer, state] : states) {
        if (state->negligible()) {
            continue;
        }
        if (!state->batches_identical()) {
            return true;
        }
        *batches = state->batches();
    }
    return false;
}

// The state is null before the first batch.
template <typename State>
void LowerToBatchesOf(const State* state, bool wanted, int64_t* seen) {
    if (wanted) {
        *seen = std::min(*seen, state == nullptr ? 0 : state->batches());
    }
}

}  // namespace

void SetLogSink(LogSink sink) { log_sink = sink; }

void Log(LogLevel level, const std::string& message) {
    const LogSink sink = log_sink;
    if (sink != nullptr) {
        sink(static_cast<int>(level), message.c_str());
    }
}

void RecordBook::AddLayer(LayerEntry entry) {
    const std::lock_guard<std::mutex> lock(mutex_);
    entry.weights_text = WeightsText(entry.scale_w);
    index_[entry.name] = entries_.size();
    entries_.push_back(std::move(entry));
}

void RecordBook::AddRoundingPlan(RoundingPlan plan) {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const PlannedLayer& layer : plan.layers) {
        if (LayerEntry* entry = Find(layer.name)) {
            entry->wants_moments = true;
        }
    }
    rounding_.AddPlan(std::move(plan));
}

void RecordBook::AddBatchNorm(const std::string& name, std::shared_ptr<BatchNormState> state) {
    const std::lock_guard<std::mutex> lock(mutex_);
    batch_norms_[name] = std::move(state);
}

void RecordBook::Restart() {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const auto& [name, state] : batch_norms_) {
        state->Restart();
    }
    activations_.clear();
    shifts_.clear();
    balances_.clear();
    rounding_.Restart();
    for (LayerEntry& entry : entries_) {
        entry.activation = nullptr;
        entry.shift = nullptr;
        entry.balance = nullptr;
        entry.has_moments = false;
        entry.scale_d.clear();
        entry.offset_d.clear();
        if (entry.wants_shift) {
            entry.shift_bit.clear();
        }
        if (entry.wants_balance) {
            entry.balance_factors.clear();
        }
    }
    has_unwritten_ = true;
}

std::shared_ptr<ActivationState> RecordBook::Activation(const std::vector<std::string>& layers) {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::shared_ptr<ActivationState>& state = activations_[layers[0]];
    if (state == nullptr) {
        state = std::make_shared<ActivationState>();
        for (const std::string& layer : layers) {
            if (LayerEntry* entry = Find(layer)) {
                entry->activation = state;
            }
        }
    }
    return state;
}

std::shared_ptr<ShiftState> RecordBook::Shift(const std::string& layer) {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::shared_ptr<ShiftState>& state = shifts_[layer];
    if (state == nullptr) {
        state = std::make_shared<ShiftState>();
        if (LayerEntry* entry = Find(layer)) {
            entry->shift = state;
        }
    }
    return state;
}

std::shared_ptr<BalanceState> RecordBook::Balance(const std::string& layer) {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::shared_ptr<BalanceState>& state = balances_[layer];
    if (state == nullptr) {
        state = std::make_shared<BalanceState>();
        if (LayerEntry* entry = Find(layer)) {
            entry->balance = state;
        }
    }
    return state;
}

std::shared_ptr<MomentsState> RecordBook::Moments(const std::string& name) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return rounding_.Moments(name);
}

std::shared_ptr<BatchNormState> RecordBook::BatchNorm(const std::string& name) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = batch_norms_.find(name);
    return found == batch_norms_.end() ? nullptr : found->second;
}

LayerEntry* RecordBook::Find(const std::string& layer) {
    const auto found = index_.find(layer);
    return found == index_.end() ? nullptr : &entries_[found->second];
}

std::string RecordBook::SetActivation(const std::vector<std::string>& layers,
                                      const ActivationFactors& factors, const ParallelFor& parallel_for) {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const std::string& layer : layers) {
        if (LayerEntry* entry = Find(layer)) {
            entry->scale_d = {factors.scale};
            entry->offset_d = {factors.offset};
            entry->mean_square_error = factors.mean_square_error;
        }
    }
    return WriteIfDue(parallel_for);
}

std::string RecordBook::SetWeights(const std::vector<std::string>& layers, const float* weights,
                                   const ChannelView& view, const std::vector<float>& scales,
                                   const ParallelFor& parallel_for) {
    const std::lock_guard<std::mutex> lock(mutex_);
    bool changed = false;
    for (const std::string& layer : layers) {
        LayerEntry* entry = Find(layer);
        if (entry != nullptr && entry->scale_w.empty()) {
            entry->scale_w = scales;
            entry->weights_text = WeightsText(scales);
            rounding_.SetWeights(layer, weights, view, scales.data());
            changed = true;
        }
    }
    return changed ? WriteIfDue(parallel_for) : "";
}

std::string RecordBook::SetShift(const std::string& layer, const std::vector<uint32_t>& shift,
                                 const ParallelFor& parallel_for) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (LayerEntry* entry = Find(layer)) {
        entry->shift_bit = shift;
    }
    return WriteIfDue(parallel_for);
}

std::string RecordBook::SetMoments(const std::vector<std::string>& layers, const ParallelFor& parallel_for) {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const std::string& layer : layers) {
        if (LayerEntry* entry = Find(layer)) {
            entry->has_moments = true;
        }
    }
    return WriteIfDue(parallel_for);
}

std::string RecordBook::CompleteBatchNorm(const ParallelFor& parallel_for) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return WriteIfDue(parallel_for);
}

std::string RecordBook::SetBalance(const std::string& layer, const std::vector<float>& factors) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (LayerEntry* entry = Find(layer)) {
        entry->balance_factors = factors;
    }
    return WriteIfDue(Serially);
}

std::string RecordBook::Write() {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::string error = WriteLocked();
    if (error.empty() && HasStatistics()) {
        error = WriteBeside({});
    } else if (error.empty()) {
        std::remove(RoundingPath().c_str());  // what is there is of an earlier calibration
    }
    return error;
}

std::string RecordBook::Flush(const ParallelFor& parallel_for) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return has_unwritten_ ? RoundAndWrite(parallel_for) : "";
}

std::string RecordBook::WriteIfDue(const ParallelFor& parallel_for) {
    has_unwritten_ = true;
    if (IsComplete()) {
        WarnOfIdenticalBatches();
        return RoundAndWrite(parallel_for);
    }
    if (std::chrono::steady_clock::now() - last_write_ < kWriteInterval) {
        return "";
    }
    return WriteLocked();
}

bool RecordBook::IsComplete() const {
    return std::all_of(entries_.begin(), entries_.end(),
                       [](const LayerEntry& entry) { return entry.IsComplete(); }) &&
           std::all_of(batch_norms_.begin(), batch_norms_.end(),
                       [](const auto& batch_norm) { return batch_norm.second->is_complete(); });
}

// Whether those of some batch norm are final.
bool RecordBook::HasStatistics() const {
    return std::any_of(batch_norms_.begin(), batch_norms_.end(),
                       [](const auto& batch_norm) { return batch_norm.second->is_complete(); });
}

std::string RecordBook::WriteLocked() {
    std::string text;
    for (const LayerEntry& entry : entries_) {
        text += ToText(entry);
    }
    last_write_ = std::chrono::steady_clock::now();
    const std::string error = ReplaceFile("record_file", path_, text);
    has_unwritten_ = !error.empty();
    return error;
}

std::string RecordBook::RoundAndWrite(const ParallelFor& parallel_for) {
    std::vector<std::string> with_weights;
    for (const LayerEntry& entry : entries_) {
        if (entry.wants_weights && !entry.scale_d.empty()) {
            with_weights.push_back(entry.name);
        }
    }
    if (!with_weights.empty()) {
        rounding_.Round([this](const std::string& layer) { return FactorsOf(layer); }, parallel_for);
    }
    if (!with_weights.empty() || HasStatistics()) {
        // Before the record: who finds a finished record finds its weights, too.
        const std::string error = WriteBeside(with_weights);
        if (!error.empty()) {
            return error;
        }
    }
    return WriteLocked();
}

// Writes the rounding of these layers, and the statistics of the batch norms.
std::string RecordBook::WriteBeside(const std::vector<std::string>& layers) {
    SafetensorsWriter writer;
    writer.AddText("format", "amct_tensorflow weight rounding 1");
    rounding_.AddTo(layers, [this](const std::string& layer) { return FactorsOf(layer); }, &writer);
    for (const auto& [name, state] : batch_norms_) {
        if (state->is_complete()) {
            const MovingStatistics statistics = state->statistics();
            writer.AddText("batch_norm " + name, "");
            writer.Add(name + "/batch_mean", statistics.Mean(), {statistics.channels()});
            writer.Add(name + "/batch_variance", statistics.Variance(), {statistics.channels()});
        }
    }
    return ReplaceFile("the file beside record_file", RoundingPath(), writer.Content());
}

std::optional<InputFactors> RecordBook::FactorsOf(const std::string& layer) {
    const LayerEntry* entry = Find(layer);
    if (entry == nullptr || entry->scale_d.empty() || entry->offset_d.empty()) {
        return std::nullopt;
    }
    return InputFactors{entry->scale_d[0], static_cast<double>(entry->offset_d[0]), entry->mean_square_error};
}

void RecordBook::WarnOfIdenticalBatches() {
    int64_t batches = 0;
    if (FindVariedBatches(activations_, &batches) || FindVariedBatches(balances_, &batches) || batches <= 1) {
        return;
    }
    Log(LogLevel::kWarning,
        "the " + std::to_string(batches) + " calibration batches of " + path_ +
            " were all identical: feed different data in each run, or set batch_num to 1");
}

int64_t RecordBook::BatchesSeen(const std::string& layer) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto batch_norm = batch_norms_.find(layer);
    if (batch_norm != batch_norms_.end()) {
        return batch_norm->second->batches();
    }
    const LayerEntry* entry = Find(layer);
    if (entry == nullptr) {
        return -1;
    }
    int64_t seen = batch_num_;
    LowerToBatchesOf(entry->activation.get(), entry->wants_activation, &seen);
    LowerToBatchesOf(entry->shift.get(), entry->wants_shift, &seen);
    LowerToBatchesOf(entry->balance.get(), entry->wants_balance, &seen);
    return seen;
}

int64_t OpenRecordBook(const std::string& path, int64_t batch_num) {
    Books& books = AllBooks();
    const std::lock_guard<std::mutex> lock(books.mutex);
    const int64_t generation = ++books.generations;
    books.by_path[path] = std::make_shared<RecordBook>(path, batch_num, generation);
    return generation;
}

void CloseRecordBook(const std::string& path) {
    Books& books = AllBooks();
    const std::lock_guard<std::mutex> lock(books.mutex);
    books.by_path.erase(path);
}

std::shared_ptr<RecordBook> FindRecordBook(const std::string& path) {
    Books& books = AllBooks();
    const std::lock_guard<std::mutex> lock(books.mutex);
    const auto found = books.by_path.find(path);
    return found == books.by_path.end() ? nullptr : found->second;
}

std::shared_ptr<RecordBook> FindRecordBook(const std::string& path, int64_t generation) {
    const std::shared_ptr<RecordBook> book = FindRecordBook(path);
    return book != nullptr && book->generation() == generation ? book : nullptr;
}

}  // namespace amct
