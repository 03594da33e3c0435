// Models that make statements where they are none of the trace, or only seem to: `elsewhere MODEL`.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <future>
#include <ppx_client.hpp>
#include <string>
#include <thread>
#include <vector>

using namespace ppx_client;

namespace {

/// The number that a forked process makes, as a parent reads it that looks at nothing else; 0 if there is none.
template <class F>
double from_fork(const F& make) {
    int ends[2];
    double x = 0.0;
    if (pipe(ends) != 0) return -1.0;
    const pid_t child = fork();
    if (child == 0) {
        close(ends[0]);
        x = make();
        if (write(ends[1], &x, sizeof x) != sizeof x) _exit(2);
        _exit(0);
    }
    close(ends[1]);
    if (read(ends[0], &x, sizeof x) != sizeof x) x = 0.0;
    close(ends[0]);
    waitpid(child, nullptr, 0);
    return x;
}

double draw(const char* name) { return sample(Normal{0.0, 1.0}, name); }

double forks() {
    const double mu = draw("mu");
    return mu + from_fork([] {
        const rejection_scope loop("loop");  // unwound while the exception is on its way
        return draw("x");
    });
}

double forks_and_swallows() {
    return draw("mu") + from_fork([] {
        try {
            return draw("x");
        } catch (...) {
            return 7.0;
        }
    });
}

/// A loop that has begun before the fork ends in both processes.
double forks_in_a_loop() {
    const rejection_scope loop("loop");
    return draw("mu") + from_fork([] { return draw("x"); });
}

double forks_and_observes() {
    return draw("mu") + from_fork([] { return observe(Normal{0.0, 1.0}, 0.5, "z"); });
}

double forks_and_tags() {
    return draw("mu") + from_fork([] {
        tag(1.0, "t");
        return 1.0;
    });
}

double thread_forks() {
    double x = draw("mu");
    std::thread([&x] { x += from_fork([] { return draw("x"); }); }).join();
    return x;
}

/// The new process makes no statement, and comes back from the model.
double comes_back() {
    const double mu = draw("mu");
    const pid_t child = fork();
    if (child == 0) return mu;
    int status = 0;
    waitpid(child, &status, 0);
    tag(WEXITSTATUS(status), "exit code");
    return mu;
}

/// Forks without statements are no matter.
double forks_only() {
    const double mu = draw("mu");
    const double twice = from_fork([mu] { return 2.0 * mu; });
    return twice - mu;
}

double threads() {
    std::vector<std::thread> team;
    for (int i = 0; i < 4; ++i)
        team.emplace_back([] {
            for (int k = 0; k < 1000; ++k) draw("part");
        });
    double x = 0.0;
    for (int k = 0; k < 1000; ++k) x += draw("mine");
    for (std::thread& each : team) each.join();
    return x;
}

double async() { return draw("mu") + std::async(std::launch::async, [] { return draw("later"); }).get(); }

double parallel() {
    double sum = draw("mu");
#pragma omp parallel for num_threads(3) reduction(+ : sum)
    for (int i = 0; i < 12; ++i) sum += draw("loop");
    return sum;
}

double observes_on_a_thread() {
    const double mu = draw("mu");
    std::thread([mu] { observe(Normal{mu, 1.0}, 0.5, "z"); }).join();
    return mu;
}

double tags_on_a_thread() {
    std::thread([] { tag(1.0, "t"); }).join();
    return draw("mu");
}

/// Threads without statements are no matter.
double threads_only() {
    double twice = draw("mu");
    std::thread([&twice] { twice *= 2.0; }).join();
    return twice;
}

const struct {
    const char* name;
    double (*model)();
} models[] = {{"forks", forks},
              {"forks_and_swallows", forks_and_swallows},
              {"forks_in_a_loop", forks_in_a_loop},
              {"forks_and_observes", forks_and_observes},
              {"forks_and_tags", forks_and_tags},
              {"thread_forks", thread_forks},
              {"comes_back", comes_back},
              {"forks_only", forks_only},
              {"threads", threads},
              {"async", async},
              {"parallel", parallel},
              {"observes_on_a_thread", observes_on_a_thread},
              {"tags_on_a_thread", tags_on_a_thread},
              {"threads_only", threads_only}};

}  // namespace

int main(int, char** argv) {
    for (const auto& each : models)
        if (std::strcmp(each.name, argv[1]) == 0) return serve(each.model, each.name);
    return 9;
}
