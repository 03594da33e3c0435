/* Draws through the C library, against drand48; __init__.py tells how this program is talked to. */
#define _DEFAULT_SOURCE
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ppx.h"

enum { draws_per_trace = 1000 };
static volatile double sink;

static double box_muller(void) {
    return sqrt(-2.0 * log(1.0 - drand48())) * cos(6.283185307179586 * drand48());
}

#define TRACE(name, draw)                                         \
    static void name(void) {                                      \
        double sum = 0.0;                                         \
        for (int i = 0; i < draws_per_trace; i++) sum += (draw);  \
        sink = sum;                                               \
    }
TRACE(bare_uniform, drand48())
TRACE(our_uniform, ppx_uniform())
TRACE(bare_normal, box_muller())
TRACE(our_normal, ppx_normal(0.0, 1.0, "x"))

static void (*trace)(void);

static int forward(void *user) {
    (void)user;
    trace();
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    const int bare = !strcmp(argv[1], "bare");
    if (!strcmp(argv[2], "drand48() -> ppx_uniform()")) {
        trace = bare ? bare_uniform : our_uniform;
    } else if (!strcmp(argv[2], "Box-Muller -> ppx_normal(0, 1, \"x\")")) {
        trace = bare ? bare_normal : our_normal;
    } else {
        fprintf(stderr, "there is no row %s\n", argv[2]);
        return 2;
    }
    if (!strcmp(argv[1], "serve")) return ppx_serve(forward, NULL, "adapters", NULL);
    for (long num_traces; scanf("%ld", &num_traces) == 1; fflush(stdout)) {
        for (long i = 0; i < num_traces; i++) trace();
        puts("");
    }
    return 0;
}
