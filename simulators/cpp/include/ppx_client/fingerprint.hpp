// Telling one model from another.
#pragma once

#include <array>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "ppx_client/index.hpp"

namespace ppx_client {

/// Text that changes whenever the model does: a hash of this program's file, by which controllers know whether traces
/// and proposals of earlier runs still fit.
///
/// @param options What the model depends on besides its code, such as the options of the command line.
/// @return Empty where the system does not say which file the program is.
inline std::string fingerprint(std::string_view options = {}) {
    std::ifstream file("/proc/self/exe", std::ios::binary);
    if (!file) return {};
    std::uint64_t hash = detail::hash_bytes(options);
    std::vector<char> block(1 << 20);
    do {
        file.read(block.data(), static_cast<std::streamsize>(block.size()));
        hash = detail::mix(hash, detail::hash_bytes({block.data(), static_cast<std::size_t>(file.gcount())}));
    } while (file);
    std::array<char, 17> text{};
    std::snprintf(text.data(), text.size(), "%016llx", static_cast<unsigned long long>(hash));
    return text.data();
}

}  // namespace ppx_client
