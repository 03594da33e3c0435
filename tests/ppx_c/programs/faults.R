# Models that go wrong: `Rscript faults.R MODEL`.
source(Sys.getenv("PPX_R_SOURCE"))

entered <- left <- 0

# Catches what it can around every draw; the end of a trace passes, and on.exit runs.
catches <- function() {
  entered <<- entered + 1
  on.exit(left <<- left + 1)
  total <- 0
  for (i in 1:3) total <- total + tryCatch(try(ppx_normal(0, 1, "x"), silent = TRUE), error = function(e) 1e9)
  ppx_observe_normal(total, 1, "y")
  total
}

fails <- function() {
  ppx_normal(0, 1, "x")
  stop("the detector melted")
}

negative <- function() tryCatch(ppx_normal(0, -1, "negative"), error = function(e) ppx_normal(0, 1, "good"))

words <- function() "no number"

# Catches the end of its trace, too, and would go on for ever.
stubborn <- function() repeat tryCatch(ppx_normal(0, -1, "negative"), condition = function(condition) NULL)

# Vectors without elements are no numbers, whatever stands beside them.
empty <- function() ppx_normal(c(1, 2), numeric(), "empty")
unmeasured <- function() ppx_observe_normal(0, 1, "unmeasured", numeric())

# Row i, column j of a matrix is what it is everywhere.
matrices <- function() {
  m <- ppx_normal(rbind(c(10, 20, 30), c(40, 50, 60)), 1, "m")
  ppx_observe_normal(m, 1, "image", value = m)
  ppx_tag(m, "m")
  ppx_tag(m[1, 3], "corner")
  m
}

slow <- function() {
  entered <<- entered + 1
  on.exit(left <<- left + 1)
  repeat {
    ppx_normal(0, 1, "x")
    Sys.sleep(0.001)
  }
}

# A legacy model that knows nothing of PPX.
legacy <- with_ppx({
  function() {
    x <- c(rnorm(1, 1, 2), runif(2, 0, 2), rexp(1, 2), rgamma(1, 2, scale = 3), rbeta(1, 2, 3), rpois(1, 4))
    y <- c(rbinom(1, 10, 0.5), rlnorm(1), rweibull(1, 2, 3), sample.int(5, 1), sample(c(10, 20), 3, replace = TRUE))
    c(x, y, sample(4))
  }
})

# What R's generators do besides drawing: constants where there is nothing to choose, the first of several parameters,
# integers, and calls whose text has values in it.
corners <- with_ppx({
  function() {
    mu <- rnorm(1, c(1, 100))
    stopifnot(length(mu) == 1, rnorm(2, 5, 0) == 5, runif(1, 2, 2) == 2, rlnorm(1, 0, 0) == 1, length(runif(0)) == 0,
              is.integer(rpois(2, 3)), is.integer(rbinom(1, 10, 0.5)), inherits(try(rnorm(-1), TRUE), "try-error"))
    mixed <- rnorm(3, 7, c(0, 1, 0))
    stopifnot(mixed[c(1, 3)] == 7, mixed[2] != 7)
    c(mu, do.call("rnorm", list(1, mu)))
  }
})

# Numbers that are made of others, each with what the model got as a tag: `NAME got`.
named <- with_ppx({
  function() {
    got <- function(value, name) ppx_tag(value, paste(name, "got"))
    got(sample(1:6, 1), "sample(1:6, 1)")
    got(sample(c(10, 20)), "sample(c(10, 20))")
    got(sample.int(5, 1), "sample_int(5, 1)")
    got(rgeom(1, 0.3), "rgeom(1, 0_3)")
    got(rcauchy(1, 1, 2), "rcauchy(1, 1, 2)")
    got(rt(1, 3), "rt(1, 3)")
    got(rt(1, 2), "rt(1, 2)")
    got(rnbinom(1, 3, 0.4), "rnbinom(1, 3, 0_4)")
    got(rnbinom(2, 3, mu = 2), "rnbinom(2, 3, 2)")
    got(rf(1, 4, 7), "rf(1, 4, 7)")
    got(rlogis(2, c(0, 10)), "rlogis(2, c(0, 10))")
    got(rchisq(1, 3), "rchisq(1, 3)")
    got(rnorm(3, 7, c(0, 1, 0)), "rnorm(3, 7, c(0, 1, 0))")
    got(rnorm(1, 7, 0), "rnorm(1, 7, 0)")
    got(rexp(1, 2), "rexp(1, 2)")
    sample(c("heads", "tails"), 1)
    NULL
  }
})

# Draws in processes that R forks.
forks <- function() {
  mu <- ppx_normal(0, 1, "mu")
  xs <- parallel::mclapply(1:2, function(i) ppx_normal(mu, 1, "x"), mc.cores = 2)
  mu + length(xs)
}
forks_by_generator <- function() ppx_normal(0, 1, "mu") + sum(unlist(parallel::mclapply(1:2, function(i) rnorm(1))))

# Functions of an installed package.
package <- function() {
  x <- ppxtiny::walk(3)
  ppx_tag(x, "walk")
  ppx_tag(ppxtiny::pick(5), "pick")
  ppx_tag(ppxtiny::compiled(), "compiled")
  mu <- ppxtiny::noisy()
  ppx_tag(mu, "mu")
  ppx_observe_normal(mu, 0.5, "y")
}
package_seen <- function() {
  ppx_package("ppxtiny")
  package()
}
kind <- function() {
  set.seed(1, kind = "default")
  ppx_normal(0, 1, "x") + runif(1)
}
seeds <- function() {
  set.seed(1)
  runif(1)
}

# One category for each row of probabilities.
categories <- function() {
  probs <- rbind(c(0.5, 0.5), c(0.1, 0.9))
  ppx_observe_categorical(probs, "rows", c(1, 2))
  stopifnot(inherits(try(ppx_observe_categorical(probs, "rows", 1), TRUE), "try-error"))
}

ppx_serve(get(commandArgs(TRUE)[1]), "faults")
cat("entered", entered, "left", left, "\n", file = stderr())
