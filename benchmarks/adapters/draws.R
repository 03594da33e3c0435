# Draws through the R functions, against R's own; __init__.py tells how this program is talked to.
source(Sys.getenv("PPX_R_SOURCE"))
arguments <- commandArgs(TRUE)
draws_per_trace <- 1000

bare <- function() for (i in seq_len(draws_per_trace)) rnorm(1, 0, 1)
ours <- switch(arguments[2],
  "rnorm(1, 0, 1) in with_ppx" = with_ppx(function() for (i in seq_len(draws_per_trace)) rnorm(1, 0, 1)),
  "rnorm(1, 0, 1) -> ppx_normal(0, 1, \"x\")" = function() for (i in seq_len(draws_per_trace)) ppx_normal(0, 1, "x"),
  stop("there is no row ", arguments[2])
)

if (arguments[1] == "serve") {
  ppx_serve(ours, "adapters")
} else {
  trace <- if (arguments[1] == "bare") bare else ours
  input <- file("stdin", "r")
  while (length(line <- readLines(input, 1)) > 0) {
    for (i in seq_len(as.integer(line))) trace()
    cat("\n")
    flush(stdout())
  }
}
