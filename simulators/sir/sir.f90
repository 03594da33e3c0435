! An epidemic in a closed population, event by event (Gillespie 1977): susceptible, infected, recovered.
! The rates of infection and recovery are unknown. At the end of each week half of the infected are found, and in
! every other week one who is not.
module epidemic
    use, intrinsic :: iso_fortran_env, only: real64
    use ppx
    implicit none
    private
    public :: simulate

    integer, parameter :: population = 30, first_cases = 2, num_weeks = 5
    real(real64), parameter :: found = 0.5_real64, false_alarms = 0.5_real64  ! per infected, per week

contains

    subroutine simulate()
        real(real64) :: infection, recovery, time
        integer :: susceptible, infected, week

        infection = ppx_lognormal(log(2.5_real64), 0.5_real64, "infection")  ! per week
        recovery = ppx_lognormal(0.0_real64, 0.4_real64, "recovery")
        susceptible = population - first_cases
        infected = first_cases
        time = next_event(0.0_real64)
        do week = 1, num_weeks
            do while (time < week)
                if (ppx_bernoulli(infection_rate() / total_rate(), "infects") == 1) then
                    susceptible = susceptible - 1
                    infected = infected + 1
                else
                    infected = infected - 1
                end if
                time = next_event(time)
            end do
            call ppx_observe_poisson(found * infected + false_alarms, week_name(week))
        end do
        call ppx_result(real(susceptible, real64))

    contains

        function infection_rate() result(rate)
            real(real64) :: rate
            rate = infection * susceptible * infected / population
        end function

        function total_rate() result(rate)
            real(real64) :: rate
            rate = infection_rate() + recovery * infected
        end function

        ! The time of the event after the one at `now`; never, once nobody is infected.
        function next_event(now) result(time)
            real(real64), intent(in) :: now
            real(real64) :: time
            time = huge(time)
            if (infected > 0) time = now + ppx_exponential(total_rate(), "wait")
        end function
    end subroutine

    function week_name(week) result(name)
        integer, intent(in) :: week
        character(5) :: name
        write (name, "(a, i1)") "week", week
    end function
end module epidemic

program sir
    use ppx, only: ppx_serve
    use epidemic, only: simulate
    implicit none
    call ppx_serve(simulate, "sir")
end program sir
