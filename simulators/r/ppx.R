# PPX for R: steer the random choices of a simulator from another process.
#
#     source("ppx.R")
#
#     forward <- function() {
#       mu <- ppx_normal(0, 1, "mu")        # a random choice
#       ppx_observe_normal(mu, 0.5, "y")    # something measured
#       mu                                  # NULL, or numbers
#     }
#     ppx_serve(forward, "gaussian")
#
# It stands on the C library, through ppx_r.c, compiled to ppx_r.so in the folder of this file (README.md tells how) or
# where the environment variable PPX_R_LIBRARY says. Parameters may be vectors or arrays: then the draw is one of that
# shape. An index of a Categorical counts from 1 here, and from 0 in the results.
#
# When a controller ends a trace early, the model is unwound by a condition of class "ppx_trace_over", which is no
# "error": on.exit runs, tryCatch(error = ) and try() let it pass. An error of the model fails the trace.

local({
  file <- Find(Negate(is.null), lapply(rev(sys.frames()), function(frame) frame$ofile))
  library_file <- Sys.getenv("PPX_R_LIBRARY", file.path(if (is.null(file)) "." else dirname(file), "ppx_r.so"))
  if (!file.exists(library_file))
    stop("ppx.R: there is no ", library_file, "; compile ppx_r.c as README.md tells, or set PPX_R_LIBRARY")
  .ppx <<- getDLLRegisteredRoutines(dyn.load(library_file))$.Call
})

# ---- Serving ----

#' Serves a model to PPX controllers until SIGTERM, Ctrl-C or a controller's Shutdown.
#'
#' @param forward A function without arguments that makes one trace; returns NULL or numbers.
#' @param name What controllers call the model.
#' @param address Where to listen; NULL: the environment variable PPX_BIND, or tcp://127.0.0.1:5555.
#' @param fingerprint Text that changes whenever the model does; by default a hash of the script and of `forward`.
ppx_serve <- function(forward, name, address = NULL, fingerprint = .ppx_fingerprint(forward)) {
  kind <- .ppx_take_generator()
  on.exit(do.call(RNGkind, as.list(kind)))
  run <- function() {
    .ppx_trace$num_ends <- 0L
    withRestarts(tryCatch({
      value <- forward()
      if (RNGkind()[1L] != "user-supplied") {
        .ppx_take_generator()
        stop("the model chose a generator by RNGkind or set.seed(kind = ), which is not controlled; leave that out")
      }
      if (!is.null(value)) {
        if (!is.numeric(value) && !is.logical(value)) stop("the model returned no numbers; return NULL or numbers")
        .Call(.ppx$r_result, .ppx_data(value), .ppx_shape(value))
      }
    }, ppx_trace_over = function(condition) NULL,
    interrupt = function(condition) .Call(.ppx$r_interrupt),
    error = function(error) .Call(.ppx$r_fail, .ppx_message(error))),
    ppx_leave = function() NULL)
  }
  if (.Call(.ppx$r_serve, run, name, address, fingerprint) != 0L) stop("cannot serve; stderr has the reason")
  invisible(NULL)
}

#' Makes R's own generator draw through PPX, whoever asks it; returns what it was.
.ppx_take_generator <- function() {
  # One uniform number for each that sample() takes; R warns that this rounds, which 52 bits make harmless.
  suppressWarnings(RNGkind("user-supplied", "user-supplied", "Rounding"))
}

#' Whether the running trace is over: a model that catches all conditions should return then.
ppx_trace_over <- function() .Call(.ppx$r_trace_over)

#' Seeds the draws that are made without a controller; otherwise the environment variable PPX_SEED does.
ppx_seed <- function(seed) invisible(.Call(.ppx$r_seed, as.double(seed)))

.ppx_message <- function(error) {
  call <- conditionCall(error)
  where <- if (is.null(call)) "" else paste0("in ", deparse(call, nlines = 1L)[1L], ": ")
  paste0(where, conditionMessage(error))
}

.ppx_fingerprint <- function(forward) {
  text <- tempfile()
  on.exit(unlink(text))
  script <- sub("^--file=", "", grep("^--file=", commandArgs(), value = TRUE))
  writeLines(c(deparse(forward), if (length(script) && file.exists(script)) readLines(script, warn = FALSE)), text)
  unname(tools::md5sum(text))
}

# ---- Places ----

#' Evaluates `expr`; addresses in it begin with the name and a slash.
ppx_scope <- function(name, expr) {
  .ppx_done(.Call(.ppx$r_scope_enter, name))
  on.exit(.Call(.ppx$r_scope_leave))
  expr
}

#' Evaluates `expr`, a loop that draws until something is accepted.
ppx_rejection <- function(name, expr) {
  .ppx_done(.Call(.ppx$r_rejection_begin, name))
  on.exit(.Call(.ppx$r_rejection_end))
  expr
}

#' Evaluates `expr`; inference leaves its draws to the prior.
ppx_uncontrolled <- function(expr) {
  before <- .Call(.ppx$r_control, FALSE)
  on.exit(.Call(.ppx$r_control, before))
  expr
}

#' Reports numbers that are no random choices, to be found in the results.
ppx_tag <- function(value, name) {
  .ppx_done(.Call(.ppx$r_tag, .ppx_data(value), .ppx_shape(value), name))
}

# ---- Draws ----

ppx_normal <- function(mean, sd, name) .ppx_draw(1L, list(mean, sd), name)
ppx_uniform <- function(min = 0, max = 1, name = "uniform") .ppx_draw(2L, list(min, max), name)
ppx_poisson <- function(rate, name) .ppx_draw(4L, list(rate), name)
ppx_bernoulli <- function(prob, name) .ppx_draw(5L, list(prob), name)
ppx_beta <- function(shape1, shape2, name) .ppx_draw(6L, list(shape1, shape2), name)
ppx_exponential <- function(rate, name) .ppx_draw(7L, list(rate), name)
ppx_gamma <- function(shape, rate, name) .ppx_draw(8L, list(shape, rate), name)
ppx_lognormal <- function(meanlog, sdlog, name) .ppx_draw(9L, list(meanlog, sdlog), name)
ppx_binomial <- function(size, prob, name) .ppx_draw(10L, list(size, prob), name)
ppx_weibull <- function(scale, shape, name) .ppx_draw(11L, list(scale, shape), name)
ppx_truncated_normal <- function(mean, sd, min, max, name) .ppx_draw(12L, list(mean, sd, min, max), name)

#' An index into `probs`, from 1; of a matrix, one for each row.
ppx_categorical <- function(probs, name) {
  if (is.matrix(probs)) {
    value <- .Call(.ppx$r_draw_array, 3L, list(.ppx_data(probs)), ncol(probs), nrow(probs), nrow(probs), name, NULL)
  } else {
    value <- .Call(.ppx$r_draw, 3L, as.double(probs), name, NULL)
  }
  .ppx_done(value) + 1
}

# ---- Observations: `value` is what was measured, where the simulator knows it; they return what was observed ----

ppx_observe_normal <- function(mean, sd, name, value = NULL) .ppx_observe(1L, list(mean, sd), name, value)
ppx_observe_uniform <- function(min, max, name, value = NULL) .ppx_observe(2L, list(min, max), name, value)
ppx_observe_poisson <- function(rate, name, value = NULL) .ppx_observe(4L, list(rate), name, value)
ppx_observe_bernoulli <- function(prob, name, value = NULL) .ppx_observe(5L, list(prob), name, value)
ppx_observe_beta <- function(shape1, shape2, name, value = NULL) .ppx_observe(6L, list(shape1, shape2), name, value)
ppx_observe_exponential <- function(rate, name, value = NULL) .ppx_observe(7L, list(rate), name, value)
ppx_observe_gamma <- function(shape, rate, name, value = NULL) .ppx_observe(8L, list(shape, rate), name, value)
ppx_observe_lognormal <- function(meanlog, sdlog, name, value = NULL)
  .ppx_observe(9L, list(meanlog, sdlog), name, value)
ppx_observe_binomial <- function(size, prob, name, value = NULL) .ppx_observe(10L, list(size, prob), name, value)
ppx_observe_weibull <- function(scale, shape, name, value = NULL) .ppx_observe(11L, list(scale, shape), name, value)
ppx_observe_truncated_normal <- function(mean, sd, min, max, name, value = NULL)
  .ppx_observe(12L, list(mean, sd, min, max), name, value)

#' Indices into `probs` count from 1; of a matrix, there is one for each row.
ppx_observe_categorical <- function(probs, name, value = NULL) {
  index <- if (is.null(value)) NULL else as.double(value) - 1
  count <- if (is.matrix(probs)) nrow(probs) else 1L
  if (!is.null(value) && length(value) != count)
    stop("observation '", name, "': the value has ", length(value), " elements, and there are probabilities of ", count)
  if (is.matrix(probs)) {
    out <- .Call(.ppx$r_observe_array, 3L, list(.ppx_data(probs)), ncol(probs), count, count, index, name)
  } else {
    out <- .Call(.ppx$r_observe, 3L, as.double(probs), index, name)
  }
  .ppx_done(out) + 1
}

# ---- Behind them ----

.ppx_trace <- list2env(list(num_ends = 0L))  # how often the model was told that its trace is over

#' What a statement returned, unless the trace is over or something was wrong: then the model ends here.
.ppx_done <- function(value) {
  if (!is.null(value)) return(value)
  message <- .Call(.ppx$r_take_error)
  if (nzchar(message)) stop(message, call. = FALSE)
  # A model that catches all conditions would go on for ever; no handler of conditions keeps a restart.
  .ppx_trace$num_ends <- .ppx_trace$num_ends + 1L
  if (.ppx_trace$num_ends > 1000L) invokeRestart("ppx_leave")
  stop(structure(class = c("ppx_trace_over", "condition"), list(message = "the trace is over", call = NULL)))
}

#' @param part Which part of a number that has the name, NULL if the draw is that itself.
.ppx_draw <- function(family, params, name, part = NULL) {
  if (all(lengths(params) == 1L)) {
    value <- .Call(.ppx$r_draw, family, as.double(unlist(params, use.names = FALSE)), name, part)
    return(if (is.null(value)) .ppx_done(value) else value)
  }
  shape <- .ppx_common_shape(params, NULL)
  value <- .Call(.ppx$r_draw_array, family, lapply(params, .ppx_data), 0L, shape, prod(shape), name, part)
  .ppx_array(.ppx_done(value), shape)
}

.ppx_observe <- function(family, params, name, value) {
  if (all(lengths(params) == 1L) && (is.null(value) || length(value) == 1L)) {
    flat <- as.double(unlist(params, use.names = FALSE))
    return(.ppx_done(.Call(.ppx$r_observe, family, flat, if (is.null(value)) NULL else as.double(value), name)))
  }
  shape <- .ppx_common_shape(params, value)
  given <- if (is.null(value)) NULL else .ppx_data(value)
  if (!is.null(given) && length(given) != prod(shape))
    stop("observation '", name, "': the value has ", length(given), " elements, and its parameters ", prod(shape))
  out <- .Call(.ppx$r_observe_array, family, lapply(params, .ppx_data), 0L, shape, prod(shape), given, name)
  .ppx_array(.ppx_done(out), shape)
}

#' The shape of the parameters, of which single numbers fit any.
.ppx_common_shape <- function(params, value) {
  long <- Filter(function(param) length(param) != 1L, c(params, list(value)[!is.null(value)]))
  shapes <- unique(lapply(long, .ppx_shape))
  if (length(shapes) != 1L) stop("parameters differ in shape; give numbers or equal shapes")
  if (length(shapes[[1L]])) shapes[[1L]] else length(long[[1L]])
}

# R counts the first index fastest, PPX the last one.
.ppx_data <- function(x) as.double(if (length(dim(x)) > 1L) aperm(x) else x)
.ppx_shape <- function(x) if (!is.null(dim(x))) dim(x) else if (length(x) == 1L) integer() else length(x)
.ppx_array <- function(x, shape) if (length(shape) > 1L) aperm(array(x, rev(shape))) else x

# ---- R's own generators, replaced ----

#' Evaluates `expr`, as local() does, with the generators of .ppx_stand_ins in place of R's. Functions that are defined in
#' it use them whenever they are called: `forward <- with_ppx({ source("model.R", local = TRUE); model })`. The name of
#' such a number is its call as text. Draws that it is made of have addresses below that and no name.
with_ppx <- function(expr) eval(substitute(expr), list2env(.ppx_stand_ins, parent = parent.frame()))

#' Does the same for what an installed package imports from stats. All that it draws is under control anyway, as uniform
#' and normal numbers at `unif_rand` and `norm_rand`; now inference sees families, each where it is called.
ppx_package <- function(package) {
  imports <- parent.env(asNamespace(package))
  for (name in intersect(names(.ppx_stand_ins), ls(imports))) {
    unlockBinding(name, imports)
    assign(name, .ppx_stand_ins[[name]], imports)
    lockBinding(name, imports)
  }
}

#' The call of the stand-in that called the caller. That of do.call has values in it: then it is the call of do.call.
.ppx_call_text <- function() {
  call <- sys.call(-2L)
  if (sys.nframe() > 3L && identical(sys.call(-3L)[[1L]], quote(do.call))) call <- sys.call(-3L)
  words <- as.character(call)  # much faster than deparse
  # PPX 1.0 controllers do not like dots.
  gsub(".", "_", paste0(words[1L], "(", paste(words[-1L], collapse = ", "), ")"), fixed = TRUE)
}

#' How many numbers a generator is asked for.
.ppx_count <- function(n) {
  count <- if (length(n) > 1L) length(n) else trunc(n)
  if (is.na(count) || count < 0) stop("invalid arguments")
  count
}

.ppx_families <- c("normal", "uniform", "categorical", "poisson", "bernoulli", "beta", "exponential", "gamma",
                   "lognormal", "binomial", "weibull")

#' @param certain Where there is nothing to choose, but only this `value`.
.ppx_stand_in <- function(family, n, params, certain = FALSE, value = NULL) {
  name <- .ppx_call_text()
  count <- .ppx_count(n)
  if (count == 0) return(numeric())
  if (isTRUE(any(certain))) {
    out <- rep_len(as.double(value), count)
    free <- which(!rep_len(certain, count))
    params <- lapply(params, function(param) rep_len(param, count)[free])
    if (length(free)) out[free] <- .ppx_draw(family, params, name, .ppx_families[family])
    return(.ppx_deliver(out, name))
  }
  if (count > 1 || any(lengths(params) > 1L)) params <- lapply(params, rep_len, count)
  .ppx_draw(family, params, name)
}

#' A generator that makes its numbers of draws.
#'
#' @param params Its parameters, numbers or vectors.
#' @param make Gets a function that draws from a family, and the parameters for each number.
.ppx_made <- function(n, params, make) {
  name <- .ppx_call_text()
  count <- .ppx_count(n)
  if (count == 0) return(numeric())
  draw <- function(family, params, part) .ppx_draw(family, lapply(params, rep_len, count), name, part)
  .ppx_deliver(do.call(make, c(draw, unname(lapply(params, rep_len, count)))), name)
}

#' What the model gets that is no draw itself: reported under its name, if it is numbers.
.ppx_deliver <- function(value, name) {
  if (is.numeric(value) && length(value)) .ppx_done(.Call(.ppx$r_tag, .ppx_data(value), .ppx_shape(c(value)), name))
  value
}

#' Uniform numbers, none of which is 0 or 1.
.ppx_unit <- function(draw)
  pmin(pmax(draw(2L, list(0, 1), "uniform"), .Machine$double.xmin), 1 - .Machine$double.neg.eps)

#' Counts are integers, as far as they are not too large.
.ppx_integers <- function(x) if (all(x <= .Machine$integer.max)) as.integer(x) else x

.ppx_stand_ins <- list(
  rnorm = function(n, mean = 0, sd = 1) .ppx_stand_in(1L, n, list(mean, sd), sd == 0, mean),
  runif = function(n, min = 0, max = 1) .ppx_stand_in(2L, n, list(min, max), min == max, min),
  rpois = function(n, lambda) {
    x <- .ppx_stand_in(4L, n, list(lambda))
    .ppx_integers(x)
  },
  rbeta = function(n, shape1, shape2, ncp = 0) {
    if (any(ncp != 0)) return(stats::rbeta(n, shape1, shape2, ncp))
    .ppx_stand_in(6L, n, list(shape1, shape2))
  },
  rexp = function(n, rate = 1) .ppx_stand_in(7L, n, list(rate)),
  rgamma = function(n, shape, rate = 1, scale = 1 / rate) .ppx_stand_in(8L, n, list(shape, 1 / scale)),
  rchisq = function(n, df, ncp = 0) {
    if (any(ncp != 0)) return(stats::rchisq(n, df, ncp))
    .ppx_stand_in(8L, n, list(df / 2, 0.5))
  },
  rlnorm = function(n, meanlog = 0, sdlog = 1)
    .ppx_stand_in(9L, n, list(meanlog, sdlog), sdlog == 0, exp(meanlog)),
  rbinom = function(n, size, prob) {
    x <- .ppx_stand_in(10L, n, list(size, prob))
    .ppx_integers(x)
  },
  rweibull = function(n, shape, scale = 1) .ppx_stand_in(11L, n, list(scale, shape)),
  rcauchy = function(n, location = 0, scale = 1)
    .ppx_made(n, list(location, scale), function(draw, a, b) a + b * tan(pi * (.ppx_unit(draw) - 0.5))),
  rlogis = function(n, location = 0, scale = 1)
    .ppx_made(n, list(location, scale), function(draw, a, b) stats::qlogis(.ppx_unit(draw), a, b)),
  rt = function(n, df, ncp) {
    if (!missing(ncp)) return(stats::rt(n, df, ncp))
    .ppx_made(n, list(df), function(draw, df) stats::qt(.ppx_unit(draw), df))
  },
  rf = function(n, df1, df2, ncp) {
    if (!missing(ncp)) return(stats::rf(n, df1, df2, ncp))
    .ppx_made(n, list(df1, df2), function(draw, df1, df2) {
      share <- pmin(draw(6L, list(df1 / 2, df2 / 2), "beta"), 1 - .Machine$double.neg.eps)
      df2 / df1 * share / (1 - share)
    })
  },
  rgeom = function(n, prob) .ppx_made(n, list(prob), function(draw, prob) {
    if (!all(prob > 0 & prob <= 1)) stop("rgeom: prob must be in (0, 1]")
    .ppx_integers(floor(draw(7L, list(1), "exponential") / -log1p(-prob)))
  }),
  rnbinom = function(n, size, prob, mu) {
    odds <- if (missing(mu)) prob / (1 - prob) else size / mu
    .ppx_made(n, list(size, odds), function(draw, size, odds)
      .ppx_integers(draw(4L, list(draw(8L, list(size, odds), "gamma")), "poisson")))
  },
  sample = function(x, size, replace = FALSE, prob = NULL) {
    from <- if (length(x) == 1L && is.numeric(x) && x >= 1) seq_len(x) else x
    .ppx_sample(from, if (missing(size)) length(from) else size, replace, prob)
  },
  sample.int = function(n, size = n, replace = FALSE, prob = NULL) .ppx_sample(seq_len(n), size, replace, prob)
)

#' Elements of `from`. Without replacement, what was drawn has probability 0 from then on.
.ppx_sample <- function(from, size, replace, prob) {
  name <- .ppx_call_text()
  n <- length(from)
  if (!replace && size > n) stop("cannot take a larger sample than the population when 'replace = FALSE'")
  probs <- if (is.null(prob)) rep(1, n) else as.double(prob)
  chosen <- integer(size)
  for (i in seq_len(size)) {
    chosen[i] <- .ppx_done(.Call(.ppx$r_draw, 3L, probs, name, "index")) + 1
    if (!replace) probs[chosen[i]] <- 0
  }
  .ppx_deliver(from[chosen], name)
}
