// A file of named arrays in the safetensors format: the length of a header, the header in JSON, the bytes.

#ifndef AMCT_TENSORFLOW_OPS_CALIBRATION_SAFETENSORS_H_
#define AMCT_TENSORFLOW_OPS_CALIBRATION_SAFETENSORS_H_

#include <cstdint>
#include <string>
#include <vector>

namespace amct {

class SafetensorsWriter {
 public:
    void AddText(const std::string& key, const std::string& text) {
        metadata_ += (metadata_.empty() ? "" : ",") + Quoted(key) + ":" + Quoted(text);
    }
    void Add(const std::string& name, const std::vector<int8_t>& values, const std::vector<int64_t>& shape) {
        AddBytes(name, "I8", values.data(), values.size(), shape);
    }
    void Add(const std::string& name, const std::vector<float>& values, const std::vector<int64_t>& shape) {
        AddBytes(name, "F32", values.data(), values.size() * sizeof(float), shape);
    }
    void Add(const std::string& name, const std::vector<double>& values) {
        AddBytes(name, "F64", values.data(), values.size() * sizeof(double),
                 {static_cast<int64_t>(values.size())});
    }

    // The content of the file.
    std::string Content() const {
        std::string header = "{\"__metadata__\":{" + metadata_ + "}" + entries_ + "}";
        header.append((8 - header.size() % 8) % 8, ' ');  // the bytes start at a multiple of 8
        std::string content;
        for (int byte = 0; byte < 8; ++byte) {
            content += static_cast<char>(header.size() >> (8 * byte) & 0xff);
        }
        return content + header + bytes_;
    }

 private:
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

    void AddBytes(const std::string& name, const char* type, const void* data, size_t size,
                  const std::vector<int64_t>& shape) {
        std::string sizes;
        for (const int64_t length : shape) {
            sizes += (sizes.empty() ? "" : ",") + std::to_string(length);
        }
        entries_ += "," + Quoted(name) + ":{\"dtype\":\"" + type + "\",\"shape\":[" + sizes +
                    "],\"data_offsets\":[" + std::to_string(bytes_.size()) + "," +
                    std::to_string(bytes_.size() + size) + "]}";
        bytes_.append(static_cast<const char*>(data), size);
    }

    std::string metadata_;
    std::string entries_;
    std::string bytes_;
};

}  // namespace amct

#endif  // AMCT_TENSORFLOW_OPS_CALIBRATION_SAFETENSORS_H_
