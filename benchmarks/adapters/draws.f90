! Draws through the Fortran module, against random_number; __init__.py tells how this program is talked to.
module rows
    use ppx
    implicit none
    integer, parameter :: dp = ppx_real, draws_per_trace = 1000
    real(dp), volatile :: sink
contains
    subroutine bare_uniform()
        real(dp) :: x, total
        integer :: i
        total = 0
        do i = 1, draws_per_trace
            call random_number(x)
            total = total + x
        end do
        sink = total
    end subroutine

    subroutine our_uniform()
        real(dp) :: x, total
        integer :: i
        total = 0
        do i = 1, draws_per_trace
            call ppx_random_number(x)
            total = total + x
        end do
        sink = total
    end subroutine

    subroutine bare_normal()
        real(dp) :: u, v, total
        integer :: i
        total = 0
        do i = 1, draws_per_trace
            call random_number(u)
            call random_number(v)
            total = total + sqrt(-2 * log(1 - u)) * cos(6.283185307179586_dp * v)
        end do
        sink = total
    end subroutine

    subroutine our_normal()
        real(dp) :: total
        integer :: i
        total = 0
        do i = 1, draws_per_trace
            total = total + ppx_normal(0.0_dp, 1.0_dp, "x")
        end do
        sink = total
    end subroutine
end module

program draws
    use ppx
    use rows
    implicit none
    procedure(ppx_model), pointer :: trace
    character(80) :: mode, row
    integer :: i, num_traces, status

    call get_command_argument(1, mode)
    call get_command_argument(2, row)
    select case (row)
    case ("random_number -> ppx_random_number")
        trace => our_uniform
        if (mode == "bare") trace => bare_uniform
    case ("Box-Muller -> ppx_normal(0, 1, ""x"")")
        trace => our_normal
        if (mode == "bare") trace => bare_normal
    case default
        error stop "there is no such row"
    end select
    if (mode == "serve") then
        call ppx_serve(trace, "adapters")
        stop
    end if
    do
        read (*, *, iostat=status) num_traces
        if (status /= 0) exit
        do i = 1, num_traces
            call trace()
        end do
        print *
        flush (6)
    end do
end program
