// Serving a model to controllers.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <zmq.hpp>

#include "ppx_client/batch.hpp"
#include "ppx_client/fingerprint.hpp"
#include "ppx_client/memory.hpp"
#include "ppx_client/server.hpp"
#include "ppx_client/signals.hpp"

namespace ppx_client {

namespace detail {

template <class F>
Model make_model(F& forward) {
    return [&forward](Returned& returned) {
        if constexpr (std::is_void_v<std::invoke_result_t<F&>>) {
            forward();
        } else {
            returned.set(forward());
        }
    };
}

}  // namespace detail

/// Where to listen if the program does not say it: the environment variable PPX_BIND, or tcp://127.0.0.1:5555.
inline std::string bind_address() {
    const char* const address = std::getenv("PPX_BIND");
    return address == nullptr || *address == '\0' ? "tcp://127.0.0.1:5555" : address;
}

/// Serves a model to PPX controllers until SIGTERM, SIGINT or a controller's Shutdown; what a simulator's main returns.
///
/// @param forward     What makes one trace: a callable without arguments that returns nothing, a number, a
///                    std::vector<double> or a Tensor.
/// @param name        What controllers call the model.
/// @param address     Where to listen, as ZeroMQ writes it.
/// @param fingerprint Text that changes whenever the model does.
/// @return 0 when told to stop; 1 if it cannot listen there, with the reason on stderr.
template <class F>
int serve(F&& forward, const std::string& name, const std::string& address = bind_address(),
          const std::string& fingerprint = ppx_client::fingerprint()) {
    try {
        const detail::StopSignals signals;
        detail::keep_freed_memory();
        detail::Server server(detail::make_model(forward), name, address, fingerprint);
        const std::string endpoint = server.endpoint();
        std::fprintf(stderr, "%s: serving PPX at %s\n", name.c_str(), endpoint.c_str());
        if (detail::is_public(endpoint))
            std::fprintf(stderr,
                         "%s: anyone who can reach %s can run this model, read its results, and keep it from others; "
                         "there is no password and no encryption: bind to 127.0.0.1 or ipc://, or use a private "
                         "network\n",
                         name.c_str(), endpoint.c_str());
        server.run();
        return 0;
    } catch (const zmq::error_t& error) {
        std::fprintf(stderr, "%s: cannot serve PPX at %s: %s; choose another address in PPX_BIND\n", name.c_str(),
                     address.c_str(), error.what());
        return 1;
    } catch (const std::invalid_argument& error) {
        std::fprintf(stderr, "%s: cannot serve PPX: %s\n", name.c_str(), error.what());
        return 1;
    }
}

}  // namespace ppx_client
