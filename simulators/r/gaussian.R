# A Gaussian of unknown mean, measured twice: the same model as ../gaussian.
folder <- dirname(sub("^--file=", "", grep("^--file=", commandArgs(), value = TRUE)))
source(file.path(folder, "ppx.R"))

forward <- function() {
  mu <- ppx_normal(1, sqrt(5), "mu")
  ppx_observe_normal(mu, sqrt(2), "y0")
  ppx_observe_normal(mu, sqrt(2), "y1")
  mu
}

ppx_serve(forward, "gaussian")
