// What happens to memory that is not needed any more.
#pragma once

#include <cstddef>
#include <cstdlib>

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace ppx_client::detail {

/// Memory of what is longer is given back: few messages and results are, and one of them may be the last.
constexpr std::size_t long_message = std::size_t{1} << 22, long_result = std::size_t{1} << 24;  // bytes

/// Keeps memory that a trace frees for the next trace. By default glibc returns blocks of the size of an image to the
/// system and asks for them again each time: an observation of 24,500 numbers then takes 160 us instead of 30.
inline void keep_freed_memory() {
#ifdef __GLIBC__
    if (std::getenv("MALLOC_TRIM_THRESHOLD_") != nullptr || std::getenv("MALLOC_MMAP_THRESHOLD_") != nullptr) return;
    mallopt(M_TRIM_THRESHOLD, 256 << 20);  // bytes
    mallopt(M_MMAP_THRESHOLD, 32 << 20);
#endif
}

/// Gives memory that was freed back to the system.
inline void give_back_memory() {
#ifdef __GLIBC__
    malloc_trim(0);
#endif
}

}  // namespace ppx_client::detail
