/* The calls of ppx.R into the C library; R has exceptions of its own, so that no model coasts here: ppx.R unwinds it as
 * soon as ppx_trace_over() is true. Errors of R never cross the C++ frames of the library. */
#include <R.h>
#include <R_ext/Rdynload.h>
#include <Rinternals.h>
#include <signal.h>

#include "ppx.h"

/* A name, or "" for NULL. */
static const char *name_of(SEXP name) { return isNull(name) ? "" : translateCharUTF8(asChar(name)); }

/* ---- Serving ---- */

static int run_model(void *call) {
    int failed = 0;
    R_tryEvalSilent((SEXP)call, R_GlobalEnv, &failed);
    if (failed) ppx_fail(R_curErrorBuf());
    return 0;
}

/* Calls `forward`, a function without arguments that catches what the model throws, for every trace. */
static SEXP r_serve(SEXP forward, SEXP name, SEXP address, SEXP fingerprint) {
    SEXP call = PROTECT(lang1(forward));
    ppx_settings *settings = ppx_settings_new();
    if (!isNull(address)) ppx_settings_address(settings, name_of(address));
    ppx_settings_fingerprint(settings, name_of(fingerprint));
    ppx_settings_patience(settings, INT64_MAX); /* a longjmp would leave R without its stack; ppx.R ends the model */
    const int status = ppx_serve(run_model, call, name_of(name), settings);
    ppx_settings_free(settings);
    UNPROTECT(1);
    return ScalarInteger(status);
}

static SEXP r_trace_over(void) { return ScalarLogical(ppx_trace_over()); }

/* What went wrong, once. */
static SEXP r_take_error(void) {
    SEXP message = mkString(ppx_error_message());
    ppx_clear_error();
    return message;
}

static SEXP r_fail(SEXP message) {
    ppx_fail(name_of(message));
    return R_NilValue;
}

/* R waits for some things, Sys.sleep among them, with a handler of its own for Ctrl-C: then the library is told here. */
static SEXP r_interrupt(void) {
    raise(SIGINT);
    ppx_fail("the model was interrupted");
    return R_NilValue;
}

static SEXP r_seed(SEXP seed) {
    ppx_seed((uint64_t)asReal(seed));
    return R_NilValue;
}

static SEXP r_control(SEXP on) { return ScalarLogical(ppx_control(asLogical(on))); }

/* ---- Statements: whether the trace goes on is for ppx.R to ask, where these return NULL ---- */

enum { MAX_PARAMS = 4, MAX_RANK = 32 };

/* The shape of a value, an integer vector. */
static int rank_of(SEXP shape, int32_t *extents) {
    const int rank = length(shape) < MAX_RANK ? length(shape) : MAX_RANK;
    for (int i = 0; i < rank; i++) extents[i] = INTEGER(shape)[i];
    return rank;
}

/* Parameters, a list of double vectors: those of length 1 hold for all elements. Returns how many. */
static int params_of(SEXP list, ppx_param *params, int categories) {
    const int count = length(list) < MAX_PARAMS ? length(list) : MAX_PARAMS;
    for (int k = 0; k < count; k++) {
        SEXP each = VECTOR_ELT(list, k);
        const int is_one = length(each) == 1 && categories == 0;
        const ppx_param all = {NULL, is_one ? REAL(each)[0] : 0.0, 0}, array = {REAL(each), 0.0, categories};
        params[k] = is_one ? all : array;
    }
    return count;
}

/* What is returned: the value, or NULL if the trace is over, or something was wrong. */
static SEXP checked(SEXP value, int status) { return status == PPX_OK ? value : R_NilValue; }

/* A draw of one number. `params` is a double vector. */
static SEXP r_draw(SEXP family, SEXP params, SEXP name, SEXP part) {
    ppx_part(name_of(part));
    const double x = ppx_draw_at(INTEGER(family)[0], length(params), REAL(params), name_of(name), NULL);
    ppx_part(NULL);
    return ppx_trace_over() || *ppx_error_message() != '\0' ? R_NilValue : ScalarReal(x);
}

/* An array of draws in C order. */
static SEXP r_draw_array(SEXP family, SEXP list, SEXP categories, SEXP shape, SEXP size, SEXP name, SEXP part) {
    ppx_param params[MAX_PARAMS];
    int32_t extents[MAX_RANK];
    SEXP out = PROTECT(allocVector(REALSXP, asInteger(size)));
    ppx_part(name_of(part));
    const int status = ppx_draw_array_at(INTEGER(family)[0], params_of(list, params, asInteger(categories)), params,
                                         rank_of(shape, extents), extents, REAL(out), name_of(name), NULL);
    ppx_part(NULL);
    UNPROTECT(1);
    return checked(out, status);
}

/* An observation of one number; `value` may be NULL. */
static SEXP r_observe(SEXP family, SEXP params, SEXP value, SEXP name) {
    const double x = ppx_observe_at(INTEGER(family)[0], length(params), REAL(params),
                                    isNull(value) ? NULL : REAL(value), name_of(name), NULL);
    return ppx_trace_over() || *ppx_error_message() != '\0' ? R_NilValue : ScalarReal(x);
}

static SEXP r_observe_array(SEXP family, SEXP list, SEXP categories, SEXP shape, SEXP size, SEXP value, SEXP name) {
    ppx_param params[MAX_PARAMS];
    int32_t extents[MAX_RANK];
    SEXP out = PROTECT(allocVector(REALSXP, asInteger(size)));
    const int status = ppx_observe_array_at(INTEGER(family)[0], params_of(list, params, asInteger(categories)), params,
                                            rank_of(shape, extents), extents, isNull(value) ? NULL : REAL(value),
                                            REAL(out), name_of(name), NULL);
    UNPROTECT(1);
    return checked(out, status);
}

static SEXP r_tag(SEXP value, SEXP shape, SEXP name) {
    int32_t extents[MAX_RANK];
    const int status = ppx_tag_array_at(REAL(value), rank_of(shape, extents), extents, name_of(name), NULL);
    return checked(ScalarInteger(status), status);
}

static SEXP r_result(SEXP value, SEXP shape) {
    int32_t extents[MAX_RANK];
    return ScalarInteger(ppx_result_array(REAL(value), rank_of(shape, extents), extents));
}

static SEXP r_scope_enter(SEXP name) {
    const int status = ppx_scope_enter(name_of(name));
    return checked(ScalarInteger(status), status);
}

static SEXP r_rejection_begin(SEXP name) {
    const int status = ppx_rejection_begin_at(name_of(name), NULL);
    return checked(ScalarInteger(status), status);
}

static SEXP r_scope_leave(void) { return ScalarInteger(ppx_scope_leave()); }
static SEXP r_rejection_end(void) { return ScalarInteger(ppx_rejection_end()); }

/* ---- R's generator: RNGkind("user-supplied") looks for these two functions. What R draws by itself, in its packages and
 * in those of others, is then made of their numbers. A trace that is over coasts here, until the next statement of ppx.R:
 * code that draws in loops of C may hold what an error would lose. ---- */

double *user_unif_rand(void) {
    static double u;
    u = ppx_uniform_real_at(0.0, 1.0, "unif_rand", NULL);
    /* R promises numbers within; rounding can reach the ends, and a controller can force them. */
    u = u > 0x1p-1022 ? (u < 1.0 - 0x1p-53 ? u : 1.0 - 0x1p-53) : 0x1p-1022;
    return &u;
}

double *user_norm_rand(void) {
    static double z;
    z = ppx_normal_at(0.0, 1.0, "norm_rand", NULL);
    return &z;
}

void R_init_ppx_r(DllInfo *library) {
    static const R_CallMethodDef calls[] = {
        {"r_serve", (DL_FUNC)&r_serve, 4},
        {"r_trace_over", (DL_FUNC)&r_trace_over, 0},
        {"r_take_error", (DL_FUNC)&r_take_error, 0},
        {"r_fail", (DL_FUNC)&r_fail, 1},
        {"r_interrupt", (DL_FUNC)&r_interrupt, 0},
        {"r_seed", (DL_FUNC)&r_seed, 1},
        {"r_control", (DL_FUNC)&r_control, 1},
        {"r_draw", (DL_FUNC)&r_draw, 4},
        {"r_draw_array", (DL_FUNC)&r_draw_array, 7},
        {"r_observe", (DL_FUNC)&r_observe, 4},
        {"r_observe_array", (DL_FUNC)&r_observe_array, 7},
        {"r_tag", (DL_FUNC)&r_tag, 3},
        {"r_result", (DL_FUNC)&r_result, 2},
        {"r_scope_enter", (DL_FUNC)&r_scope_enter, 1},
        {"r_scope_leave", (DL_FUNC)&r_scope_leave, 0},
        {"r_rejection_begin", (DL_FUNC)&r_rejection_begin, 1},
        {"r_rejection_end", (DL_FUNC)&r_rejection_end, 0},
        {NULL, NULL, 0},
    };
    static const R_CMethodDef generators[] = {
        {"user_unif_rand", (DL_FUNC)&user_unif_rand, 0},
        {"user_norm_rand", (DL_FUNC)&user_norm_rand, 0},
        {NULL, NULL, 0},
    };
    R_registerRoutines(library, generators, calls, NULL, NULL);
    R_useDynamicSymbols(library, FALSE);
}
