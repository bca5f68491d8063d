// The mean and the second moments of a layer's input as its weights see it, over samples of its positions.
//
// For the input x of one output position, a vector over taps and channels, they are m = E[x] and the
// covariance C = E[(x - m)(x - m)']. C is kept in diagonal blocks: one a group, or several of at most
// `most_block` rows each, which hold whole channels with all their taps. Products are summed of what x
// differs from the mean of the first batch by: an input that hardly changes would be lost in the rounding of
// its squares.

#ifndef AMCT_TENSORFLOW_OPS_NUMERICS_SECOND_MOMENTS_H_
#define AMCT_TENSORFLOW_OPS_NUMERICS_SECOND_MOMENTS_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "common.h"
#include "dense.h"
#include "layer_input.h"

namespace amct {

class SecondMoments {
 public:
    // The positions that all batches together are sampled at. More gained nothing where it was measured.
    static constexpr int64_t kPositions = 1024;

    SecondMoments(int64_t groups, int64_t width, int64_t taps, int64_t most_block)
        : groups_(groups), width_(width), taps_(taps) {
        const int64_t size = groups * width * taps;
        sum_.assign(size, 0.0);
        power_.assign(size, 0.0);
        nonzero_.assign(size, 0);
        largest_.assign(size, 0.0f);
        pivot_.assign(size, 0.0f);
        seen_.assign(taps, 0);
        const int64_t most_channels = std::max<int64_t>(most_block / taps, 1);
        const int64_t parts = (width + most_channels - 1) / most_channels;
        const int64_t most = (width + parts - 1) / parts;
        for (int64_t group = 0; group < groups; ++group) {
            for (int64_t first = 0; first < width; first += most) {
                blocks_.push_back({group, first, std::min(most, width - first)});
                begins_.push_back(gram_.size());
                gram_.resize(gram_.size() + (width == 1 ? 0 : Square(blocks_.back().count * taps)));
            }
        }
        if (width == 1) {
            gram_.assign(taps * taps * groups, 0.0f);
        }
    }

    // Adds what `count` positions of a batch see; the batch has as many groups and channels as those before.
    void Add(const LayerInput& input, const Window& window, int64_t count, const ParallelFor& parallel_for) {
        const std::vector<int64_t> positions = ChoosePositions(input.positions(), count);
        CountSeen(input, window, positions);
        if (width_ == 1) {
            AddSingleChannels(input, window, positions, parallel_for);
        } else if (blocks_.size() >= kManyBlocks) {
            const int64_t cost = static_cast<int64_t>(positions.size()) * Square(blocks_[0].count * taps_);
            parallel_for(static_cast<int64_t>(blocks_.size()), cost, [&](int64_t begin, int64_t end) {
                for (int64_t block = begin; block < end; ++block) {
                    AddBlock(input, window, positions, block, Serially);
                }
            });
        } else {
            for (size_t block = 0; block < blocks_.size(); ++block) {
                AddBlock(input, window, positions, static_cast<int64_t>(block), parallel_for);
            }
        }
        rows_ += static_cast<int64_t>(positions.size());
    }

    int64_t rows() const { return rows_; }
    int64_t groups() const { return groups_; }
    int64_t width() const { return width_; }
    int64_t taps() const { return taps_; }
    const std::vector<ChannelRange>& blocks() const { return blocks_; }

    // Per tap and channel, [taps, groups * width]: the mean, the mean square, the share of values that are
    // not 0, and the largest magnitude.
    double Mean(int64_t index) const { return sum_[index] / static_cast<double>(rows_); }
    double Power(int64_t index) const { return power_[index] / static_cast<double>(rows_); }
    double Nonzero(int64_t index) const {
        return static_cast<double>(nonzero_[index]) / static_cast<double>(rows_);
    }
    double Largest(int64_t index) const { return largest_[index]; }
    // The share of positions at which a tap is inside the input.
    double Seen(int64_t tap) const { return static_cast<double>(seen_[tap]) / static_cast<double>(rows_); }
    // Where a row of a block, which is over [taps, channels], is in [taps, groups * width].
    int64_t Index(const ChannelRange& block, int64_t row) const {
        return row / block.count * groups_ * width_ + block.group * width_ + block.first + row % block.count;
    }

    // Writes C of one block, [rows, rows], both triangles.
    void Covariance(int64_t block, float* covariance) const {
        const double share = 1.0 / static_cast<double>(rows_);
        const int64_t size = blocks_[block].count * taps_;
        std::vector<double> shift(size);
        for (int64_t i = 0; i < size; ++i) {
            const int64_t index = Index(blocks_[block], i);
            shift[i] = Mean(index) - pivot_[index];
        }
        for (int64_t i = 0; i < size; ++i) {
            const int64_t step = width_ == 1 ? groups_ : 1;
            const float* sums = width_ == 1 ? gram_.data() + i * taps_ * groups_ + blocks_[block].group
                                            : gram_.data() + begins_[block] + i * size;
            for (int64_t j = i; j < size; ++j) {
                covariance[i * size + j] = static_cast<float>(sums[j * step] * share - shift[i] * shift[j]);
            }
        }
        Mirror(size, covariance);
    }

    // Bytes kept between batches.
    size_t StateBytes() const {
        return sizeof(*this) + gram_.size() * sizeof(float) +
               sum_.size() * (2 * sizeof(double) + sizeof(int64_t) + 2 * sizeof(float)) +
               seen_.size() * sizeof(int64_t) + blocks_.size() * (sizeof(ChannelRange) + sizeof(size_t));
    }

 private:
    static constexpr size_t kManyBlocks = 8;
    static constexpr int64_t kTile = 256;

    // Groups of one channel that are worked on together: what their taps see of all positions stays small.
    int64_t Lanes() const { return std::clamp<int64_t>(2048 / taps_, 1, 64); }

    static int64_t Square(int64_t size) { return size * size; }

    // Copies the upper triangle to the lower, tile by tile: whole columns would be slow.
    static void Mirror(int64_t size, float* matrix) {
        constexpr int64_t kSide = 32;
        for (int64_t top = 0; top < size; top += kSide) {
            for (int64_t left = 0; left <= top; left += kSide) {
                for (int64_t i = top; i < std::min(top + kSide, size); ++i) {
                    for (int64_t j = left; j < std::min(left + kSide, i); ++j) {
                        matrix[i * size + j] = matrix[j * size + i];
                    }
                }
            }
        }
    }

    void CountSeen(const LayerInput& input, const Window& window, const std::vector<int64_t>& positions) {
        for (const int64_t position : positions) {
            const OutputPosition at(input, position);
            for (int64_t tap = 0; tap < taps_; ++tap) {
                int64_t offset;
                seen_[tap] += FindSource(input, window, at, tap, &offset) ? 1 : 0;
            }
        }
    }

    void AddBlock(const LayerInput& input, const Window& window, const std::vector<int64_t>& positions,
                  int64_t block, const ParallelFor& parallel_for) {
        const ChannelRange& range = blocks_[block];
        const int64_t size = range.count * taps_;
        const int64_t count = static_cast<int64_t>(positions.size());
        std::vector<float> rows(count * size);
        parallel_for(count, 2 * size, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
                GatherRow(input, window, positions[i], range, rows.data() + i * size);
            }
        });
        const int64_t tiles = (size + kTile - 1) / kTile;
        parallel_for(tiles, count * kTile, [&](int64_t begin, int64_t end) {
            for (int64_t tile = begin; tile < end; ++tile) {
                AddColumns(rows.data(), count, range, tile * kTile, std::min(kTile, size - tile * kTile));
            }
        });
        float* gram = gram_.data() + begins_[block];
        parallel_for(tiles * tiles, count * kTile * kTile / 8, [&](int64_t begin, int64_t end) {
            for (int64_t tile = begin; tile < end; ++tile) {
                const int64_t first = tile % tiles * kTile;
                const int64_t second = tile / tiles * kTile;
                if (second >= first) {
                    AddToGram(rows.data(), count, size, first, std::min(kTile, size - first), second,
                              std::min(kTile, size - second), gram);
                }
            }
        });
    }

    // Adds columns of gathered rows to what is kept of each value alone, and subtracts the pivot from them.
    void AddColumns(float* rows, int64_t count, const ChannelRange& range, int64_t first, int64_t width) {
        const int64_t size = range.count * taps_;
        std::vector<double> sums(2 * width, 0.0);
        std::vector<float> largest(width, 0.0f);
        std::vector<int32_t> nonzero(width, 0);
        std::vector<float> pivot(width);
        for (int64_t i = 0; i < count; ++i) {
            AddRow(rows + i * size + first, width, sums.data(), sums.data() + width, largest.data(),
                   nonzero.data());
        }
        for (int64_t column = 0; column < width; ++column) {
            const int64_t index = Index(range, first + column);
            sum_[index] += sums[column];
            power_[index] += sums[width + column];
            nonzero_[index] += nonzero[column];
            largest_[index] = std::max(largest_[index], largest[column]);
            if (rows_ == 0) {
                pivot_[index] = static_cast<float>(sums[column] / static_cast<double>(count));
            }
            pivot[column] = pivot_[index];
        }
        for (int64_t i = 0; i < count; ++i) {
            Subtract(pivot.data(), width, rows + i * size + first);
        }
    }

    AMCT_VECTORIZED static void Subtract(const float* pivot, int64_t size, float* values) {
        for (int64_t i = 0; i < size; ++i) {
            values[i] -= pivot[i];
        }
    }

    AMCT_VECTORIZED static void AddRow(const float* row, int64_t width, double* sums, double* squares,
                                       float* largest, int32_t* nonzero) {
        for (int64_t i = 0; i < width; ++i) {
            const float x = row[i];
            sums[i] += x;
            squares[i] += static_cast<double>(x) * x;
            const float magnitude = std::fabs(x);
            largest[i] = largest[i] < magnitude ? magnitude : largest[i];
            nonzero[i] += x != 0.0f ? 1 : 0;
        }
    }

    // Groups of one channel: the same product of taps for many channels at once.
    void AddSingleChannels(const LayerInput& input, const Window& window,
                           const std::vector<int64_t>& positions, const ParallelFor& parallel_for) {
        const int64_t count = static_cast<int64_t>(positions.size());
        const int64_t lanes = Lanes();
        const int64_t parts = (groups_ + lanes - 1) / lanes;
        parallel_for(parts, count * taps_ * taps_ * lanes / 8, [&](int64_t begin, int64_t end) {
            for (int64_t part = begin; part < end; ++part) {
                const ChannelRange range{part * lanes, 0, std::min(lanes, groups_ - part * lanes)};
                AddLanes(input, window, positions, range);
            }
        });
    }

    void AddLanes(const LayerInput& input, const Window& window, const std::vector<int64_t>& positions,
                  const ChannelRange& range) {
        const int64_t lanes = range.count;
        const int64_t size = taps_ * lanes;
        const int64_t count = static_cast<int64_t>(positions.size());
        std::vector<float> rows(count * size);
        for (int64_t i = 0; i < count; ++i) {
            GatherRow(input, window, positions[i], range, rows.data() + i * size);
        }
        AddColumns(rows.data(), count, range, 0, size);
        std::vector<float> gram(taps_ * size, 0.0f);
        for (int64_t i = 0; i < count; ++i) {
            const float* row = rows.data() + i * size;
            for (int64_t tap = 0; tap < taps_; ++tap) {
                for (int64_t other = tap; other < taps_; ++other) {
                    AddProducts(row + tap * lanes, row + other * lanes, lanes,
                                gram.data() + (tap * taps_ + other) * lanes);
                }
            }
        }
        for (int64_t pair = 0; pair < taps_ * taps_; ++pair) {
            for (int64_t lane = 0; lane < lanes; ++lane) {
                gram_[pair * groups_ + range.group + lane] += gram[pair * lanes + lane];
            }
        }
    }

    AMCT_VECTORIZED static void AddProducts(const float* left, const float* right, int64_t size,
                                            float* sums) {
        for (int64_t i = 0; i < size; ++i) {
            sums[i] += left[i] * right[i];
        }
    }

    const int64_t groups_;
    const int64_t width_;
    const int64_t taps_;
    int64_t rows_ = 0;
    std::vector<ChannelRange> blocks_;
    std::vector<size_t>
        begins_;  // of the blocks in the next; not for groups of one channel, [taps, taps, groups]
    std::vector<float> gram_;  // sums, the upper triangle
    std::vector<double> sum_;
    std::vector<double> power_;
    std::vector<int64_t> nonzero_;
    std::vector<float> largest_;
    std::vector<float> pivot_;   // the mean of the first batch
    std::vector<int64_t> seen_;  // per tap, the positions
};

}  // namespace amct

#endif  // AMCT_TENSORFLOW_OPS_NUMERICS_SECOND_MOMENTS_H_
