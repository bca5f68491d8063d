// A file of named arrays in the safetensors format: the length of a header, the header in JSON, the bytes.
// Its metadata have the CRC-32 of the bytes.

#ifndef AMCT_TENSORFLOW_OPS_CALIBRATION_SAFETENSORS_H_
#define AMCT_TENSORFLOW_OPS_CALIBRATION_SAFETENSORS_H_

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

namespace amct {

class SafetensorsWriter {
 public:
    void AddText(const std::string& key, const std::string& text) {
        metadata_ += (metadata_.empty() ? "" : ",") + Quoted(key) + ":" + Quoted(text);
    }
    void Add(const std::string& name, const std::vector<int8_t>& values, const std::vector<int64_t>& shape) {
        AddArray(name, "I8", values, shape);
    }
    void Add(const std::string& name, const std::vector<float>& values, const std::vector<int64_t>& shape) {
        AddArray(name, "F32", values, shape);
    }
    void Add(const std::string& name, const std::vector<double>& values) {
        AddArray(name, "F64", values, {static_cast<int64_t>(values.size())});
    }

    // The content of the file: arrays of larger elements first, so that each is aligned.
    std::string Content() {
        std::stable_sort(arrays_.begin(), arrays_.end(), [](const Array& left, const Array& right) {
            return left.element_size > right.element_size;
        });
        AddText("crc32", Checksum());
        std::string header = "{\"__metadata__\":{" + metadata_ + "}";
        size_t size = 0;
        for (const Array& array : arrays_) {
            const std::string begin = std::to_string(size);
            size += array.bytes.size();
            header += "," + array.entry + begin + "," + std::to_string(size) + "]}";
        }
        header += "}";
        header.append((8 - header.size() % 8) % 8, ' ');  // the bytes start at a multiple of 8
        std::string content;
        content.reserve(8 + header.size() + size);
        for (int byte = 0; byte < 8; ++byte) {
            content += static_cast<char>(header.size() >> (8 * byte) & 0xff);
        }
        content += header;
        for (const Array& array : arrays_) {
            content += array.bytes;
        }
        return content;
    }

 private:
    struct Array {
        size_t element_size;
        std::string entry;  // of the header, up to where the bytes are
        std::string bytes;
    };

    static std::string Quoted(const std::string& text) {
        std::string quoted = "\"";
        for (const char c : text) {
            if (c == '"' || c == '\\') {
                quoted += '\\';
            }
            quoted += c;
        }
        return quoted + "\"";
    }

    // The CRC-32 of ISO 3309, as zlib computes it, of all bytes in 8 hexadecimal digits.
    std::string Checksum() const {
        std::array<uint32_t, 256> table;
        for (uint32_t byte = 0; byte < 256; ++byte) {
            uint32_t value = byte;
            for (int bit = 0; bit < 8; ++bit) {
                value = value >> 1 ^ (value & 1 ? 0xedb88320u : 0u);
            }
            table[byte] = value;
        }
        uint32_t sum = 0xffffffffu;
        for (const Array& array : arrays_) {
            for (const char byte : array.bytes) {
                sum = sum >> 8 ^ table[(sum ^ static_cast<unsigned char>(byte)) & 0xff];
            }
        }
        char text[9];
        std::snprintf(text, sizeof(text), "%08x", static_cast<unsigned>(~sum));
        return text;
    }

    template <typename T>
    void AddArray(const std::string& name, const char* type, const std::vector<T>& values,
                  const std::vector<int64_t>& shape) {
        std::string sizes;
        for (const int64_t length : shape) {
            sizes += (sizes.empty() ? "" : ",") + std::to_string(length);
        }
        const std::string entry =
            Quoted(name) + ":{\"dtype\":\"" + type + "\",\"shape\":[" + sizes + "],\"data_offsets\":[";
        arrays_.push_back(
            {sizeof(T), entry, {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)}});
    }

    std::string metadata_;
    std::vector<Array> arrays_;
};

}  // namespace amct

#endif  // AMCT_TENSORFLOW_OPS_CALIBRATION_SAFETENSORS_H_
