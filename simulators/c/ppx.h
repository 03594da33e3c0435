/* PPX for C: steer the random choices of a C99 simulator from another process.
 *
 *     #include "ppx.h"
 *
 *     static int forward(void *user) {
 *         double mu = ppx_normal(0.0, 1.0, "mu");         a random choice
 *         ppx_observe_normal(mu, 0.5, NULL, "y");         something measured
 *         ppx_result(mu);
 *         return 0;
 *     }
 *
 *     int main(void) { return ppx_serve(forward, NULL, "gaussian", NULL); }
 *
 * Link with libppx.a or libppx.so, which README.md tells how to make. Without a controller, statements draw from the
 * distributions and report nothing: an instrumented simulator is still a simulator.
 *
 * Names. Every statement takes a name, in UTF-8. A draw whose name is NULL has its place in the source as address,
 * "file:line:function", the file without its folder, or relative to the macro PPX_SOURCE_ROOT where that is defined.
 *
 * The end of a trace. A controller may end a trace before the model has returned; a parameter outside its domain and
 * ppx_fail end it too. No C function is unwound then: the model goes on, its draws are made from the prior and
 * reported to nobody, and what it returns is ignored. So a model frees what it took as it always does. Those that want
 * to stop early ask ppx_trace_over() and return. A model that goes on for 100,000 statements more is left by longjmp;
 * what it holds then is lost.
 *
 * Other languages call the functions that end in _at, with NULL for `site`, and need give every statement a name.
 */
#ifndef PPX_H
#define PPX_H

#include <stddef.h>
#include <stdint.h>

#define PPX_VERSION "0.1.0"

#if defined(__GNUC__)
#define PPX_API __attribute__((visibility("default")))
#else
#define PPX_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* What functions return that have no value to return. */
typedef enum ppx_status {
    PPX_OK = 0,
    PPX_TRACE_OVER = 1,   /* the trace is over; the statement did nothing that anybody sees */
    PPX_CANNOT_SERVE = 2, /* ppx_serve cannot listen there */
    PPX_MISUSE = 3        /* an argument that cannot be, or a call where it cannot be made */
} ppx_status;

/* Families of distributions, by their number in the PPX schema; with their parameters and domains. */
typedef enum ppx_family {
    PPX_NORMAL = 1,       /* mean, stddev > 0 */
    PPX_UNIFORM,          /* low < high */
    PPX_CATEGORICAL,      /* probs >= 0, divided by their sum: an index from 0 */
    PPX_POISSON,          /* rate >= 0 */
    PPX_BERNOULLI,        /* probability of 1, in [0, 1] */
    PPX_BETA,             /* concentration1, concentration0 > 0; mean c1 / (c1 + c0) */
    PPX_EXPONENTIAL,      /* rate > 0; mean 1 / rate */
    PPX_GAMMA,            /* concentration, rate > 0; mean concentration / rate */
    PPX_LOG_NORMAL,       /* loc, scale > 0: exp of a Normal */
    PPX_BINOMIAL,         /* total_count, probability in [0, 1] */
    PPX_WEIBULL,          /* scale, concentration > 0; survival function exp(-(x / scale)^concentration) */
    PPX_TRUNCATED_NORMAL  /* mean, stddev > 0, low < high, which may be infinite; not part of PPX 1.0 */
} ppx_family;

/* A place in the source. Its texts must stay where they are until the program ends, as literals do. */
typedef struct ppx_site {
    const char *source_root; /* "" if unknown */
    const char *file;
    int line;
    const char *function;
} ppx_site;

/* A parameter of an array's elements: one number for all of them, or one for each. */
typedef struct ppx_param {
    const double *each; /* in C order, last index fastest; NULL: `all` holds for all */
    double all;
    int32_t categories; /* of a Categorical: how many numbers `each` has for each element; otherwise 0 */
} ppx_param;

/* ---- Serving ---------------------------------------------------------------------------------------------------- */

/* Makes one trace. Returns 0; anything else says that the trace has failed. */
typedef int (*ppx_model)(void *user);

/* How to serve; everything has a default. */
typedef struct ppx_settings ppx_settings;

PPX_API ppx_settings *ppx_settings_new(void); /* NULL if there is no memory */
PPX_API void ppx_settings_free(ppx_settings *settings);
/* Where to listen, as ZeroMQ writes it; default: environment variable PPX_BIND, or tcp://127.0.0.1:5555. */
PPX_API int ppx_settings_address(ppx_settings *settings, const char *address);
/* Text that changes whenever the model does; default: a hash of the program's file. */
PPX_API int ppx_settings_fingerprint(ppx_settings *settings, const char *fingerprint);
/* How many statements a model may make after the end of its trace before longjmp leaves it; default 100,000. */
PPX_API int ppx_settings_patience(ppx_settings *settings, int64_t num_statements);

/* Serves a model to PPX controllers until SIGTERM, SIGINT or a controller's Shutdown. The model runs on this thread,
 * many times. `user` is handed to it. `settings` may be NULL. Returns PPX_OK when told to stop. */
PPX_API int ppx_serve(ppx_model forward, void *user, const char *name, const ppx_settings *settings);

/* Whether the running trace is over, so that the model may return at once. */
PPX_API int ppx_trace_over(void);
/* Ends the running trace as failed, for this reason, which the controller is told. */
PPX_API int ppx_fail(const char *message);
/* What went wrong last on this thread, "" if nothing; since the trace began, where one is served. */
PPX_API const char *ppx_error_message(void);
PPX_API void ppx_clear_error(void);
/* Seeds the draws that this thread makes without a controller; otherwise the environment variable PPX_SEED does. */
PPX_API void ppx_seed(uint64_t seed);
/* The version of the library; PPX_VERSION is that of the header. */
PPX_API const char *ppx_version(void);

/* What the model returns, to be found in the results. The last one counts. */
PPX_API int ppx_result(double value);
PPX_API int ppx_result_array(const double *values, int rank, const int32_t *shape);

/* While on = 0, inference leaves the draws of this thread to the prior. Returns what was set before. On at the begin
 * of each trace. */
PPX_API int ppx_control(int on);

/* While a part is set, draws of this thread are what a number is made of: their addresses end with a slash and the part,
 * and results show nothing under their names, which are for the number: report it by ppx_tag. NULL: no longer. For
 * bindings of other languages. */
PPX_API void ppx_part(const char *part);

/* ---- Places ----------------------------------------------------------------------------------------------------- */

/* Between enter and leave, addresses begin with the name and a slash: tells apart the draws of a function that is
 * called from several places. What is open when the model returns is left. */
PPX_API int ppx_scope_enter(const char *name);
PPX_API int ppx_scope_leave(void);

/* Between begin and end, draws belong to a loop that draws until something is accepted. */
PPX_API int ppx_rejection_begin_at(const char *name, const ppx_site *site);
PPX_API int ppx_rejection_end(void);

/* Reports values that are no random choices, to be found in the results under their name. */
PPX_API int ppx_tag_at(double value, const char *name, const ppx_site *site);
PPX_API int ppx_tag_array_at(const double *values, int rank, const int32_t *shape, const char *name,
                             const ppx_site *site);

/* ---- Draws ------------------------------------------------------------------------------------------------------ */

/* A parameter outside its domain fails the trace (without a controller, stderr has the message); the value then is
 * NaN, or 0 where it is an integer. */
PPX_API double ppx_normal_at(double mean, double stddev, const char *name, const ppx_site *site);
PPX_API double ppx_uniform_real_at(double low, double high, const char *name, const ppx_site *site);
PPX_API int64_t ppx_categorical_at(const double *probs, int num_categories, const char *name, const ppx_site *site);
PPX_API int64_t ppx_poisson_at(double rate, const char *name, const ppx_site *site);
PPX_API int64_t ppx_bernoulli_at(double probability, const char *name, const ppx_site *site);
PPX_API double ppx_beta_at(double concentration1, double concentration0, const char *name, const ppx_site *site);
PPX_API double ppx_exponential_at(double rate, const char *name, const ppx_site *site);
PPX_API double ppx_gamma_at(double concentration, double rate, const char *name, const ppx_site *site);
PPX_API double ppx_lognormal_at(double loc, double scale, const char *name, const ppx_site *site);
PPX_API int64_t ppx_binomial_at(double total_count, double probability, const char *name, const ppx_site *site);
PPX_API double ppx_weibull_at(double scale, double concentration, const char *name, const ppx_site *site);
PPX_API double ppx_truncated_normal_at(double mean, double stddev, double low, double high, const char *name,
                                       const ppx_site *site);

/* A draw of any family, for bindings of other languages. */
PPX_API double ppx_draw_at(int family, int num_params, const double *params, const char *name, const ppx_site *site);

/* Draws independent values into `out`, an array of this shape in C order. At the end of a trace, `out` is filled like
 * everything else. */
PPX_API int ppx_draw_array_at(int family, int num_params, const ppx_param *params, int rank, const int32_t *shape,
                              double *out, const char *name, const ppx_site *site);

/* ---- Observations ----------------------------------------------------------------------------------------------- */

/* Compares the simulation with data. `value` is what was measured, where the simulator knows it, or NULL; controllers
 * know it by the name of the observation and may override it. Returns what was observed: the controller's value, in
 * prior runs and without a controller a draw (if `value` is NULL); NaN under PPX 1.0, which does not tell it. */
PPX_API double ppx_observe_normal_at(double mean, double stddev, const double *value, const char *name,
                                     const ppx_site *site);
PPX_API double ppx_observe_uniform_real_at(double low, double high, const double *value, const char *name,
                                           const ppx_site *site);
PPX_API double ppx_observe_categorical_at(const double *probs, int num_categories, const double *value,
                                          const char *name, const ppx_site *site);
PPX_API double ppx_observe_poisson_at(double rate, const double *value, const char *name, const ppx_site *site);
PPX_API double ppx_observe_bernoulli_at(double probability, const double *value, const char *name,
                                        const ppx_site *site);
PPX_API double ppx_observe_beta_at(double concentration1, double concentration0, const double *value,
                                   const char *name, const ppx_site *site);
PPX_API double ppx_observe_exponential_at(double rate, const double *value, const char *name, const ppx_site *site);
PPX_API double ppx_observe_gamma_at(double concentration, double rate, const double *value, const char *name,
                                    const ppx_site *site);
PPX_API double ppx_observe_lognormal_at(double loc, double scale, const double *value, const char *name,
                                        const ppx_site *site);
PPX_API double ppx_observe_binomial_at(double total_count, double probability, const double *value, const char *name,
                                       const ppx_site *site);
PPX_API double ppx_observe_weibull_at(double scale, double concentration, const double *value, const char *name,
                                      const ppx_site *site);
PPX_API double ppx_observe_truncated_normal_at(double mean, double stddev, double low, double high,
                                               const double *value, const char *name, const ppx_site *site);

/* An observation of any family, for bindings of other languages. */
PPX_API double ppx_observe_at(int family, int num_params, const double *params, const double *value, const char *name,
                              const ppx_site *site);

/* The same for an array. `value` may be NULL; the observed array is written to `out`, if that is not NULL. */
PPX_API int ppx_observe_array_at(int family, int num_params, const ppx_param *params, int rank, const int32_t *shape,
                                 const double *value, double *out, const char *name, const ppx_site *site);

#ifdef __cplusplus
}
#endif

/* ---- As C programs write it: without _at, the place in the source is filled in --------------------------------- */

#ifdef PPX_SOURCE_ROOT
#define PPX_ROOT PPX_SOURCE_ROOT
#else
#define PPX_ROOT ""
#endif
#ifdef __cplusplus
inline const ppx_site *ppx_place(const ppx_site &site) { return &site; }
#define PPX_HERE ppx_place(ppx_site{PPX_ROOT, __FILE__, __LINE__, __func__})
#else
#define PPX_HERE (&(const ppx_site){PPX_ROOT, __FILE__, __LINE__, __func__})
#endif

#define ppx_normal(...) ppx_normal_at(__VA_ARGS__, PPX_HERE)
#define ppx_uniform_real(...) ppx_uniform_real_at(__VA_ARGS__, PPX_HERE)
/* In (0, 1), for programs that only call a rand(). */
#define ppx_uniform() ppx_uniform_real_at(0.0, 1.0, NULL, PPX_HERE)
#define ppx_categorical(...) ppx_categorical_at(__VA_ARGS__, PPX_HERE)
#define ppx_poisson(...) ppx_poisson_at(__VA_ARGS__, PPX_HERE)
#define ppx_bernoulli(...) ppx_bernoulli_at(__VA_ARGS__, PPX_HERE)
#define ppx_beta(...) ppx_beta_at(__VA_ARGS__, PPX_HERE)
#define ppx_exponential(...) ppx_exponential_at(__VA_ARGS__, PPX_HERE)
#define ppx_gamma(...) ppx_gamma_at(__VA_ARGS__, PPX_HERE)
#define ppx_lognormal(...) ppx_lognormal_at(__VA_ARGS__, PPX_HERE)
#define ppx_binomial(...) ppx_binomial_at(__VA_ARGS__, PPX_HERE)
#define ppx_weibull(...) ppx_weibull_at(__VA_ARGS__, PPX_HERE)
#define ppx_truncated_normal(...) ppx_truncated_normal_at(__VA_ARGS__, PPX_HERE)
#define ppx_draw_array(...) ppx_draw_array_at(__VA_ARGS__, PPX_HERE)

#define ppx_observe_normal(...) ppx_observe_normal_at(__VA_ARGS__, PPX_HERE)
#define ppx_observe_uniform_real(...) ppx_observe_uniform_real_at(__VA_ARGS__, PPX_HERE)
#define ppx_observe_categorical(...) ppx_observe_categorical_at(__VA_ARGS__, PPX_HERE)
#define ppx_observe_poisson(...) ppx_observe_poisson_at(__VA_ARGS__, PPX_HERE)
#define ppx_observe_bernoulli(...) ppx_observe_bernoulli_at(__VA_ARGS__, PPX_HERE)
#define ppx_observe_beta(...) ppx_observe_beta_at(__VA_ARGS__, PPX_HERE)
#define ppx_observe_exponential(...) ppx_observe_exponential_at(__VA_ARGS__, PPX_HERE)
#define ppx_observe_gamma(...) ppx_observe_gamma_at(__VA_ARGS__, PPX_HERE)
#define ppx_observe_lognormal(...) ppx_observe_lognormal_at(__VA_ARGS__, PPX_HERE)
#define ppx_observe_binomial(...) ppx_observe_binomial_at(__VA_ARGS__, PPX_HERE)
#define ppx_observe_weibull(...) ppx_observe_weibull_at(__VA_ARGS__, PPX_HERE)
#define ppx_observe_truncated_normal(...) ppx_observe_truncated_normal_at(__VA_ARGS__, PPX_HERE)
#define ppx_observe_array(...) ppx_observe_array_at(__VA_ARGS__, PPX_HERE)

#define ppx_rejection_begin(...) ppx_rejection_begin_at(__VA_ARGS__, PPX_HERE)
#define ppx_tag(...) ppx_tag_at(__VA_ARGS__, PPX_HERE)
#define ppx_tag_array(...) ppx_tag_array_at(__VA_ARGS__, PPX_HERE)

/* Arguments of array statements (C only):
 *     ppx_draw_array(PPX_NORMAL, PPX_PARAMS(PPX_ALL(0.0), PPX_EACH(stddev)), PPX_SHAPE(20, 35), out, "noise"); */
#define PPX_ALL(number) {NULL, (number), 0}
#define PPX_EACH(array) {(array), 0.0, 0}
#define PPX_PROBS(array, num_categories) {(array), 0.0, (num_categories)}
#define PPX_PARAMS(...)                                                         \
    (int)(sizeof((const ppx_param[]){__VA_ARGS__}) / sizeof(ppx_param)), \
        (const ppx_param[]) { __VA_ARGS__ }
#define PPX_SHAPE(...)                                                        \
    (int)(sizeof((const int32_t[]){__VA_ARGS__}) / sizeof(int32_t)), \
        (const int32_t[]) { __VA_ARGS__ }

#endif
