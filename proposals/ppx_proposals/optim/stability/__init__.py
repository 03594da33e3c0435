"""Whether gradients through a long computation can be trusted, and what to do where they cannot.

After Metz, Freeman, Schoenholz and Kachman 2021, "Gradients are not all you need" (arXiv 2111.05803): `lyapunov` and
`jacobian_spectrum` for what torch can differentiate, `finite_difference_lyapunov` and `finite_difference_sensitivity`
for programs it cannot, `gradient_horizon` for a loss, `largest_curvature` for the learning rate, and `recommend`.
"""

from ppx_proposals.optim.stability.advice import Action, Recommendation, recommend
from ppx_proposals.optim.stability.differences import (
    Growth,
    Sensitivity,
    Verdict,
    finite_difference_lyapunov,
    finite_difference_sensitivity,
    one_at_a_time,
)
from ppx_proposals.optim.stability.exponents import (
    Exponents,
    JacobianSpectrum,
    jacobian_spectrum,
    lyapunov,
)
from ppx_proposals.optim.stability.horizon import (
    GradientSpread,
    HorizonStudy,
    gradient_horizon,
    plot_horizon,
)
from ppx_proposals.optim.stability.recurrent import RecurrentCore, recurrent_core
from ppx_proposals.optim.stability.sharpness import (
    Curvature,
    StepStability,
    adam_preconditioner,
    adam_threshold,
    descent_threshold,
    difference_product,
    hessian_product,
    largest_curvature,
)

__all__ = [
    "Action",
    "Curvature",
    "Exponents",
    "GradientSpread",
    "Growth",
    "HorizonStudy",
    "JacobianSpectrum",
    "Recommendation",
    "RecurrentCore",
    "Sensitivity",
    "StepStability",
    "Verdict",
    "adam_preconditioner",
    "adam_threshold",
    "descent_threshold",
    "difference_product",
    "finite_difference_lyapunov",
    "finite_difference_sensitivity",
    "gradient_horizon",
    "hessian_product",
    "jacobian_spectrum",
    "largest_curvature",
    "lyapunov",
    "one_at_a_time",
    "plot_horizon",
    "recommend",
    "recurrent_core",
]
