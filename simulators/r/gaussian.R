# A Gaussian of unknown mean, measured twice: the same model as ../gaussian.
source("ppx.R", chdir = TRUE)

forward <- function() {
  mu <- ppx_normal(1, sqrt(5), "mu")
  ppx_observe_normal(mu, sqrt(2), "y0")
  ppx_observe_normal(mu, sqrt(2), "y1")
  mu
}

ppx_serve(forward, "gaussian")
