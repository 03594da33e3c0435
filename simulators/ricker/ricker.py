"""The Ricker map with noise: a population whose size swings from year to year (Wood 2010, Nature 466, 1102).

python ricker.py        # six years of a population, and the animals that an observer counts
"""

import numpy as np

NUM_YEARS = 6
SIGMA = 0.3  # standard deviation of the noise of the environment
PHI = 4.0  # animals counted per unit of population size


def simulate(rng, num_years=NUM_YEARS):
    """Returns the logarithm of the growth rate, and the population size of each year."""
    log_r = rng.normal(2.0, 0.5)
    size = 1.0
    sizes = []
    for _ in range(num_years):
        noise = rng.normal(0.0, SIGMA)
        size = size * np.exp(log_r - size + noise)
        sizes.append(size)
    return log_r, np.array(sizes)


if __name__ == "__main__":
    rng = np.random.default_rng()
    log_r, sizes = simulate(rng)
    print("growth rate: exp", log_r)
    print("counts:", rng.poisson(PHI * sizes))
