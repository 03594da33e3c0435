! A forked process draws, and says so by its exit code only.
program forks
    use, intrinsic :: iso_c_binding, only: c_int, c_ptr, c_null_ptr
    use ppx
    implicit none
    interface
        function c_fork() bind(c, name="fork") result(pid)
            import
            integer(c_int) :: pid
        end function
        function c_wait(status) bind(c, name="wait") result(pid)
            import
            type(c_ptr), value :: status
            integer(c_int) :: pid
        end function
        subroutine c_exit(code) bind(c, name="_exit")
            import
            integer(c_int), value :: code
        end subroutine
    end interface
    call ppx_serve(forward, "forks")
contains
    subroutine forward()
        real(ppx_real) :: mu, x
        mu = ppx_normal(0.0_ppx_real, 1.0_ppx_real, "mu")
        if (c_fork() == 0) then
            call ppx_random_number(x, "x")
            call c_exit(merge(1_c_int, 0_c_int, x > 0.5_ppx_real))
        end if
        if (c_wait(c_null_ptr) < 0) call ppx_fail("there was no process")
        call ppx_result(mu)
    end subroutine
end program
