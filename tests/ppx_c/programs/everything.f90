! Every statement and family; the same model as everything.py.
program everything
    use ppx
    implicit none
    integer, parameter :: dp = ppx_real
    call ppx_serve(forward, "everything")
contains
    subroutine forward()
        real(dp) :: mu, x, noise(3), flat(2), indices(2), observed(3)
        integer :: k, n, i
        mu = ppx_normal(0.5_dp, 2.0_dp, "mu   ")
        call ppx_control(.false.)
        x = ppx_uniform(-1.0_dp, 2.0_dp, "uniform")
        call ppx_control(.true.)
        k = ppx_categorical([0.2_dp, 0.0_dp, 0.8_dp], "categorical")
        n = ppx_poisson(4.0_dp, "poisson")
        i = ppx_bernoulli(0.25_dp, "bernoulli")
        x = ppx_beta(2.0_dp, 3.0_dp, "beta")
        x = ppx_exponential(2.0_dp, "exponential")
        x = ppx_gamma(2.5_dp, 0.5_dp, "gamma")
        x = ppx_lognormal(0.1_dp, 0.2_dp, "lognormal")
        i = ppx_binomial(10, 0.3_dp, "binomial")
        x = ppx_weibull(1.5_dp, 2.0_dp, "weibull")
        x = ppx_truncated_normal(mu, 1.0_dp, -1.0_dp, 3.0_dp, "truncated_normal")
        call ppx_draw_array(PPX_FAMILY_NORMAL, noise, "noise", [0.0_dp], [1.0_dp, 2.0_dp, 3.0_dp])
        call ppx_random_number(flat, "flat")
        call ppx_draw_array(PPX_FAMILY_CATEGORICAL, indices, "indices", [0.5_dp, 0.5_dp, 0.1_dp, 0.9_dp])
        call ppx_scope_enter("detector")
        call ppx_rejection_begin("loop")
        do
            call ppx_random_number(x, "try")
            if (x <= 0.5_dp) exit
        end do
        call ppx_rejection_end()
        call ppx_scope_leave()
        call ppx_observe_normal(mu, 0.5_dp, "y", observed=x)
        call ppx_observe_poisson(n + 1.0_dp, "count", value=3.0_dp)
        call ppx_observe_categorical([0.5_dp, 0.5_dp], "index", observed=i)
        call ppx_observe_array(PPX_FAMILY_NORMAL, 3, "image", noise, [0.5_dp], observed=observed)
        call ppx_observe_array(PPX_FAMILY_EXPONENTIAL, 2, "repeated", [2.0_dp], value=[0.5_dp, 0.25_dp])
        if (i < 1 .or. i > 2 .or. .not. abs(x) < 1e9_dp) call ppx_fail("what was observed is not what can be")
        call ppx_tag(mu * 2.0_dp, "twice")
        call ppx_tag(noise, "noise")
        call ppx_result([mu, real(k - 1, dp), flat(2)])
    end subroutine
end program
