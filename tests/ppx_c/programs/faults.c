/* Models that go wrong, or are looked at when their trace ends early: `faults MODEL [PATIENCE]`. */
#define _POSIX_C_SOURCE 200809L
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "ppx.h"

static long num_blocks = 0, num_allocated = 0, num_stopped = 0; /* taken, ever taken; traces that ended early */

/* A walk of random length in memory of its own. */
static int allocates(void *user) {
    const int n = (int)ppx_poisson(3.0, "n");
    double *walk = malloc((size_t)(n + 1) * sizeof *walk), other[2];
    num_blocks++;
    num_allocated++;
    ppx_scope_enter("walk");
    ppx_rejection_begin("steps");
    walk[0] = 0.0;
    for (int i = 0; i < n; i++) walk[i + 1] = walk[i] + ppx_normal(0.0, 1.0, "step");
    ppx_rejection_end();
    ppx_scope_leave();
    ppx_draw_array(PPX_NORMAL, PPX_PARAMS(PPX_ALL(walk[n]), PPX_ALL(1.0)), PPX_SHAPE(2), other, "other");
    if (ppx_observe_normal(other[1], 1.0, NULL, "y") > 1e9) ppx_fail("such an observation cannot be"); /* NaN in 1.0 */
    ppx_result(walk[n]);
    num_stopped += ppx_trace_over();
    free(walk);
    num_blocks--;
    return user != NULL;
}

/* Early returns leave a scope and a loop open, and the trace as it was. */
static int leaves_open(void *user) {
    ppx_scope_enter("open");
    ppx_rejection_begin("loop");
    const double x = ppx_uniform();
    if (x < 0.5) return user != NULL;
    ppx_rejection_end();
    ppx_scope_leave();
    ppx_normal(x, 1.0, "x");
    return 0;
}

static int endless(void *user) {
    ppx_normal(0.0, -1.0, "bad");
    while (user == NULL) ppx_normal(0.0, 1.0, "x");
    return 0;
}

static int slow(void *user) {
    const struct timespec pause = {0, 1000000};
    while (!ppx_trace_over()) {
        ppx_normal(0.0, 1.0, "x");
        nanosleep(&pause, NULL);
    }
    return user != NULL;
}

static int negative(void *user) {
    const double bad = ppx_normal(0.0, -1.0, "negative"), good = ppx_normal(0.0, 1.0, "good");
    const double array[2] = {1.0, -1.0};
    double out[2];
    if (!isnan(bad) || isnan(good) || ppx_poisson(-1.0, "count") != 0 || !ppx_trace_over()) abort();
    if (ppx_draw_array(PPX_NORMAL, PPX_PARAMS(PPX_ALL(0.0), PPX_EACH(array)), PPX_SHAPE(2), out, "a") != PPX_TRACE_OVER)
        abort();
    if (!isnan(out[0]) || strstr(ppx_error_message(), "'negative'") == NULL) abort();
    return user != NULL;
}

static int array(void *user) {
    const double stddevs[2] = {1.0, -1.0};
    double out[2];
    ppx_draw_array(PPX_NORMAL, PPX_PARAMS(PPX_ALL(0.0), PPX_EACH(stddevs)), PPX_SHAPE(2), out, "array");
    return user != NULL;
}

static int shape(void *user) {
    double out[2];
    ppx_draw_array(PPX_NORMAL, PPX_PARAMS(PPX_ALL(0.0), PPX_ALL(1.0)), PPX_SHAPE(2, 0), out, "array");
    return user != NULL;
}

static int params(void *user) {
    double out[2];
    ppx_draw_array(PPX_NORMAL, PPX_PARAMS(PPX_ALL(0.0)), PPX_SHAPE(2), out, "array");
    return user != NULL;
}

static int fails(void *user) {
    ppx_normal(0.0, 1.0, "x");
    ppx_fail("the detector melted");
    ppx_fail("and so on");
    return user != NULL;
}

static int returns(void *user) { return user == NULL ? 3 : 0; }

static int leaves(void *user) {
    ppx_scope_leave();
    return user != NULL;
}

static int nameless(void *user) {
    ppx_normal_at(0.0, 1.0, NULL, NULL);
    return user != NULL;
}

/* Texts of a source that was saved as Latin-1. */
static int latin(void *user) {
    ppx_normal(0.0, 1.0, "caf\xe9");
    return user != NULL;
}

static int says_latin(void *user) {
    ppx_fail("the caf\xe9 is shut");
    return user != NULL;
}

static int no_category(void *user) {
    const double probs[] = {1.0};
    ppx_categorical(probs, 0, "none");
    return user != NULL;
}

static int serves(void *user) { return ppx_serve(serves, user, "inner", NULL) == PPX_MISUSE ? 0 : 4; }

static void *draw_elsewhere(void *unused) {
    ppx_normal(0.0, 1.0, "elsewhere");
    return unused;
}

static int threads(void *user) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, draw_elsewhere, NULL) != 0) return 5;
    pthread_join(thread, NULL);
    return user != NULL;
}

/* A forked process draws; the parent takes what it reads, and looks at nothing else. */
static int forks(void *user) {
    double x = ppx_normal(0.0, 1.0, "mu");
    int ends[2];
    if (pipe(ends) != 0) return 6;
    if (fork() == 0) {
        const double y = ppx_normal(x, 1.0, "x");
        if (write(ends[1], &y, sizeof y) != (ssize_t)sizeof y) _exit(2);
        _exit(0);
    }
    close(ends[1]);
    if (read(ends[0], &x, sizeof x) != (ssize_t)sizeof x) x = 0.0;
    close(ends[0]);
    wait(NULL);
    ppx_result(x);
    return user != NULL;
}

/* The same by an array, and the new process returns from the model. */
static int forks_array(void *user) {
    double out[2];
    ppx_scope_enter("scope");
    ppx_rejection_begin("loop");
    if (fork() == 0) {
        ppx_draw_array(PPX_NORMAL, PPX_PARAMS(PPX_ALL(0.0), PPX_ALL(1.0)), PPX_SHAPE(2), out, "array");
        ppx_rejection_end();
        return 0;
    }
    wait(NULL);
    return user != NULL;
}

static void *report_elsewhere(void *unused) {
    ppx_tag(1.0, "elsewhere");
    return unused;
}

static int tags_on_a_thread(void *user) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, report_elsewhere, NULL) != 0) return 5;
    pthread_join(thread, NULL);
    return user != NULL;
}

static const struct {
    const char *name;
    ppx_model model;
} models[] = {{"allocates", allocates}, {"leaves_open", leaves_open}, {"endless", endless}, {"slow", slow},
              {"negative", negative},   {"array", array},             {"shape", shape},     {"params", params},
              {"fails", fails},         {"returns", returns},         {"leaves", leaves},   {"nameless", nameless},
              {"serves", serves},       {"threads", threads},
              {"forks", forks},         {"forks_array", forks_array}, {"tags_on_a_thread", tags_on_a_thread},
              {"latin", latin},         {"says_latin", says_latin},   {"no_category", no_category}};

int main(int argc, char **argv) {
    for (size_t i = 0; argc > 1 && i < sizeof models / sizeof *models; i++) {
        if (strcmp(models[i].name, argv[1]) != 0) continue;
        if (argc == 3 && strcmp(argv[2], "once") == 0) return models[i].model(NULL);
        ppx_settings *settings = ppx_settings_new();
        if (argc == 3) ppx_settings_patience(settings, atol(argv[2]));
        const int status = ppx_serve(models[i].model, NULL, argv[1], settings);
        ppx_settings_free(settings);
        fprintf(stderr, "taken %ld, left %ld, ended early %ld\n", num_allocated, num_blocks, num_stopped);
        return status;
    }
    return 9;
}
