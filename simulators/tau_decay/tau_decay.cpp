// A tau lepton decays in front of a calorimeter: the example simulator. tau_decay.py is its twin.
//
// Run without options it serves PPX at PPX_BIND; `--local 5` prints five events and needs no controller.

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <ppx_client.hpp>
#include <stdexcept>
#include <string>

#include "event.hpp"
#include "random.hpp"

namespace {

using namespace tau_decay;

constexpr const char* usage = R"(usage: tau_decay [options]

A tau lepton decays in front of a calorimeter. Without --local or --bare it serves PPX at PPX_BIND.

  --grid ZxXxY     voxels along z, x and y (TAU_DECAY_GRID; default 8x11x11, published 20x35x35)
  --half-width W   x and y run from -W to W (TAU_DECAY_HALF_WIDTH; default 1.5, for 20x35x35 3)
  --noise GEV      noise per voxel (TAU_DECAY_NOISE; default 0.8, scaled with the root of the voxel's volume)
  --local N        print N events drawn without a controller
  --json           with --local: everything about an event, one line each
  --bare N         time N events with the generator of the C++ library instead of PPX
  --seed SEED      with --local and --bare: seed of the draws
  --help           this text
)";

struct Arguments {
    Options options;
    long local = -1;
    long bare = -1;
    bool json = false;
    bool help = false;
    bool has_seed = false;
    unsigned long long seed = 0;
};

double positive(const std::string& what, const std::string& text) {
    char* end = nullptr;
    const double value = std::strtod(text.c_str(), &end);
    if (text.empty() || *end != '\0' || !(value > 0.0) || std::isinf(value)) {
        throw std::invalid_argument(what + ": '" + text + "' is no positive number");
    }
    return value;
}

long count(const std::string& what, const std::string& text) {
    char* end = nullptr;
    const long value = std::strtol(text.c_str(), &end, 10);
    if (text.empty() || *end != '\0' || value < 0) {
        throw std::invalid_argument(what + ": '" + text + "' is no whole number >= 0");
    }
    return value;
}

void read_grid(const std::string& what, const std::string& text, Grid& grid) {
    char rest = '\0';
    if (std::sscanf(text.c_str(), "%dx%dx%d%c", &grid.nz, &grid.nx, &grid.ny, &rest) != 3 ||
        std::min({grid.nz, grid.nx, grid.ny}) < 1) {
        throw std::invalid_argument(what + ": '" + text + "' is no grid; write three positive numbers like 8x11x11");
    }
}

double voxel_volume(const Grid& grid) {
    return (Grid::z_high - Grid::z_low) * 4.0 * grid.half_width * grid.half_width / static_cast<double>(grid.size());
}

// Options come from the command line, or else the environment; the published grid has its published width, and the
// noise goes with the root of the voxel's volume.
Arguments parse(int argc, char** argv) {
    Arguments arguments;
    std::string grid, half_width, noise;
    const auto from_environment = [](const char* name) {
        const char* value = std::getenv(name);
        return std::string(value == nullptr ? "" : value);
    };
    grid = from_environment("TAU_DECAY_GRID");
    half_width = from_environment("TAU_DECAY_HALF_WIDTH");
    noise = from_environment("TAU_DECAY_NOISE");
    for (int i = 1; i < argc; ++i) {
        const std::string option = argv[i];
        if (option == "--json") {
            arguments.json = true;
        } else if (option == "--help" || option == "-h") {
            arguments.help = true;
        } else if (i + 1 == argc) {
            throw std::invalid_argument(option + ": unknown option, or its value is missing; see --help");
        } else if (option == "--grid") {
            grid = argv[++i];
        } else if (option == "--half-width") {
            half_width = argv[++i];
        } else if (option == "--noise") {
            noise = argv[++i];
        } else if (option == "--local") {
            arguments.local = count(option, argv[++i]);
        } else if (option == "--bare") {
            arguments.bare = count(option, argv[++i]);
        } else if (option == "--seed") {
            arguments.seed = static_cast<unsigned long long>(count(option, argv[++i]));
            arguments.has_seed = true;
        } else {
            throw std::invalid_argument(option + ": unknown option; see --help");
        }
    }
    Options& options = arguments.options;
    if (!grid.empty()) {
        read_grid("grid", grid, options.grid);
    }
    if (!half_width.empty()) {
        options.grid.half_width = positive("half width", half_width);
    } else if (options.grid.nz == 20 && options.grid.nx == 35 && options.grid.ny == 35) {
        options.grid.half_width = 3.0;
    }
    options.noise = noise.empty() ? default_noise * std::sqrt(voxel_volume(options.grid) / voxel_volume(Grid()))
                                  : positive("noise", noise);
    return arguments;
}

using Recorded = Recorder<Client>;

void print_row(const Simulator<Recorded>& simulator, const Recorded& recorder) {
    const FourVector& p = simulator.decay().tau.momentum;
    const Summary& summary = simulator.summary();
    double deposited = 0.0;
    for (double energy : simulator.image()) {
        deposited += energy;
    }
    std::printf("%7.2f%7.2f%7.2f  %-14s%3d%4d%9.2f%9.2f%11.2f%7zu\n", p.x, p.y, p.z,
                decay_table().tau().modes[static_cast<size_t>(simulator.decay().channel)].name.c_str(), summary.num_em,
                summary.num_hadronic, summary.leading_energy, summary.visible_energy, deposited, recorder.draws.size());
}

std::string json_numbers(const std::vector<double>& numbers) {
    std::string text = "[";
    char buffer[32];
    for (size_t i = 0; i < numbers.size(); ++i) {
        std::snprintf(buffer, sizeof buffer, "%s%.17g", i == 0 ? "" : ", ", numbers[i]);
        text += buffer;
    }
    return text + "]";
}

std::string json_state(const State& state) {
    const FourVector& p = state.momentum;
    return "[\"" + decay_table().particle(state.particle).name + "\", " + json_numbers({p.e, p.x, p.y, p.z}) + "]";
}

void print_json(const Simulator<Recorded>& simulator, const Recorded& recorder, const std::vector<double>& result) {
    const auto& modes = decay_table().tau().modes;
    std::string line =
        "{\"channel\": \"" + modes[static_cast<size_t>(simulator.decay().channel)].name + "\", \"draws\": [";
    char buffer[32];
    const char* comma = "";
    for (const auto& [address, value] : recorder.draws) {
        std::snprintf(buffer, sizeof buffer, "\", %.17g]", value);
        line += comma + ("[\"" + address) + buffer;
        comma = ", ";
    }
    line += "], \"vertices\": [";
    comma = "";
    for (const Vertex& vertex : simulator.decay().vertices) {
        line += comma + ("[" + json_state(vertex.parent));
        for (const State& daughter : vertex.daughters) {
            line += ", " + json_state(daughter);
        }
        line += "]";
        comma = ", ";
    }
    line += "], \"tags\": {";
    comma = "";
    for (const auto& [name, value] : recorder.tags) {
        std::snprintf(buffer, sizeof buffer, "\": %.17g", value);
        line += comma + ("\"" + name) + buffer;
        comma = ", ";
    }
    line += "}, \"result\": " + json_numbers(result) + ", \"image\": " + json_numbers(simulator.image()) +
            ", \"observed\": " + json_numbers(simulator.observed()) +
            ", \"log_likelihood\": " + json_numbers({simulator.log_likelihood()}).substr(1);
    line.back() = '}';
    std::puts(line.c_str());
}

void print_events(const Arguments& arguments) {
    if (arguments.has_seed) {
        ppx_client::seed(arguments.seed);
    }
    if (!arguments.json) {
        std::printf("%7s%7s%7s  %-14s%3s%4s%9s%9s%11s%7s    (GeV)\n", "px", "py", "pz", "channel", "em", "had",
                    "leading", "visible", "deposited", "draws");
    }
    Client client;
    for (long i = 0; i < arguments.local; ++i) {
        Recorded recorder(client);
        Simulator<Recorded> simulator(recorder, arguments.options);
        simulator.keep_vertices();
        const std::vector<double> result = simulator();
        if (arguments.json) {
            print_json(simulator, recorder, result);
        } else {
            print_row(simulator, recorder);
        }
    }
}

void time_bare(const Arguments& arguments) {
    Bare bare(arguments.seed);
    Simulator<Bare> simulator(bare, arguments.options);
    double sum = 0.0;  // so that nothing is optimised away
    const auto start = std::chrono::steady_clock::now();
    for (long i = 0; i < arguments.bare; ++i) {
        sum += simulator()[0] + simulator.observed()[0];
    }
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    std::printf("%ld events in %.3f s: %.0f events/s, %.2f us each (mean missing energy %.3f GeV)\n", arguments.bare,
                elapsed.count(), static_cast<double>(arguments.bare) / elapsed.count(),
                1e6 * elapsed.count() / static_cast<double>(arguments.bare), sum / static_cast<double>(arguments.bare));
}

// The options of the model, by which controllers tell one from another.
std::string model_text(const Options& options) {
    const Grid& grid = options.grid;
    char text[128];
    std::snprintf(text, sizeof text, "%dx%dx%d %.17g %.17g", grid.nz, grid.nx, grid.ny, grid.half_width, options.noise);
    return text;
}

int run(int argc, char** argv) {
    const Arguments arguments = parse(argc, argv);
    if (arguments.help) {
        std::fputs(usage, stdout);
    } else if (arguments.bare >= 0) {
        time_bare(arguments);
    } else if (arguments.local >= 0) {
        print_events(arguments);
    } else {
        Client client;
        Simulator<Client> simulator(client, arguments.options);
        return ppx_client::serve(std::ref(simulator), "tau_decay", ppx_client::bind_address(),
                                 ppx_client::fingerprint(model_text(arguments.options)));
    }
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    try {
        return run(argc, argv);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "tau_decay: %s\n", error.what());
        return 2;
    }
}
