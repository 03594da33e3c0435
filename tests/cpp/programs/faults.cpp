// A model that goes wrong in the way that the draw `case` says.
#include <unistd.h>

#include <cmath>
#include <limits>
#include <ppx_client.hpp>
#include <stdexcept>
#include <string>
#include <thread>

using namespace ppx_client;

static double faults() {
    const auto fault = sample(Categorical{std::vector<double>(12, 1.0)}, "case");
    switch (fault) {
        case 0:
            break;  // nothing goes wrong
        case 1:
            throw std::runtime_error("the detector melted");
        case 2:
            throw 42;
        case 3:
            sample(Normal{0.0, -1.0}, "negative");
            break;
        case 4:
            sample(Uniform{std::nan(""), 1.0}, "nan");
            break;
        case 5:
            observe(Normal{Tensor{{1.0, 2.0, 3.0}, {2, 2}}, 1.0}, "misshapen");
            break;
        case 6:
            sample(TruncatedNormal{0.0, 1.0, 0.0, 1.0}, "truncated");
            break;
        case 7:
            try {  // swallows what unwinds it
                sample(Normal{0.0, 1.0}, "swallowed");
            } catch (...) {
            }
            sample(Normal{0.0, 1.0}, "after");
            break;
        case 8: {
            std::thread([] { sample(Normal{0.0, 1.0}, "elsewhere"); }).join();
            return 0.0;
        }
        case 9:
            sample(Normal{std::vector<double>{1.0, 2.0}, std::vector<double>{1.0, 2.0, 3.0}}, "shapes");
            break;
        case 10: {
            const scope left_open("scope");
            throw std::runtime_error("inside a scope");
        }
        case 11:  // every kind of answer that a controller can get wrong
            sample(Normal{0.0, 1.0}, "normal");
            sample(Poisson{4.0}, "count");
            sample(Normal{Tensor{{1, 2, 3, 4, 5, 6}, {2, 3}}, 1.0}, "normals");
            sample(Bernoulli{std::vector<double>{0.5, 0.5}}, "flags");
            sample(Categorical{Tensor{{1, 1, 1, 1, 1, 1}, {2, 3}}}, "indices");
            observe(Normal{0.0, 1.0}, "y");
            observe(Categorical{{0.5, 0.5}}, "index");
            observe(Categorical{{0.5, 0.5}}, std::vector<double>{0.0, 1.0, 1.0}, "repeated");
            break;
        default:
            _exit(3);
    }
    return sample(Normal{0.0, 1.0}, "x");
}

int main() { return serve(faults, "faults"); }
