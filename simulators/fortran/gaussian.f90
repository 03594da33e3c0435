! A Gaussian of unknown mean, measured twice: the same model as ../gaussian.
program gaussian
    use ppx
    implicit none
    call ppx_serve(forward, "gaussian")
contains
    subroutine forward()
        real(ppx_real) :: mu
        mu = ppx_normal(1.0_ppx_real, sqrt(5.0_ppx_real), "mu")
        call ppx_observe_normal(mu, sqrt(2.0_ppx_real), "y0")
        call ppx_observe_normal(mu, sqrt(2.0_ppx_real), "y1")
        call ppx_result(mu)
    end subroutine
end program
