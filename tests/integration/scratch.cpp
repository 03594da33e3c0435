// Hands a number from one part to another through a file of fixed name in its working directory.
#include <unistd.h>

#include <cstdio>
#include <ppx_client.hpp>
#include <string>

void forward() {
    double mu = ppx_client::sample(ppx_client::Normal{0.0, 1.0}, "mu"), x = 0.0;
    std::string mine = "param." + std::to_string(getpid());
    std::FILE* file = std::fopen(mine.c_str(), "w");
    std::fprintf(file, "%.17g", mu);
    std::fclose(file);
    std::rename(mine.c_str(), "param.dat");
    usleep(50);
    file = std::fopen("param.dat", "r");
    if (std::fscanf(file, "%lf", &x) != 1) std::abort();
    std::fclose(file);
    ppx_client::tag(x, "x");
    ppx_client::observe(ppx_client::Normal{x, 0.5}, "y");
}

int main() { return ppx_client::serve(forward, "scratch"); }
