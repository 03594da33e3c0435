// What this client calls itself in a handshake.
#pragma once

namespace ppx_client {

inline constexpr const char* system_name = "ppx_client C++ 0.1.0";

}  // namespace ppx_client
