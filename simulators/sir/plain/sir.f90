! An epidemic in a closed population, event by event (Gillespie 1977): susceptible, infected, recovered.
! The rates of infection and recovery are unknown. At the end of each week half of the infected are found, and in
! every other week one who is not.
module epidemic
    use, intrinsic :: iso_fortran_env, only: real64
    implicit none
    private
    public :: simulate

    integer, parameter :: population = 30, first_cases = 2, num_weeks = 5
    real(real64), parameter :: found = 0.5_real64, false_alarms = 0.5_real64  ! per infected, per week

contains

    subroutine simulate()
        real(real64) :: infection, recovery, time
        integer :: susceptible, infected, week

        infection = lognormal(log(2.5_real64), 0.5_real64)  ! per week
        recovery = lognormal(0.0_real64, 0.4_real64)
        susceptible = population - first_cases
        infected = first_cases
        time = next_event(0.0_real64)
        do week = 1, num_weeks
            do while (time < week)
                if (bernoulli(infection_rate() / total_rate()) == 1) then
                    susceptible = susceptible - 1
                    infected = infected + 1
                else
                    infected = infected - 1
                end if
                time = next_event(time)
            end do
            print *, poisson(found * infected + false_alarms)
        end do

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
            if (infected > 0) time = now + exponential(total_rate())
        end function
    end subroutine

    function uniform() result(x)
        real(real64) :: x
        call random_number(x)
        x = 1 - x  ! in (0, 1]
    end function

    function lognormal(loc, scale) result(x)
        real(real64), intent(in) :: loc, scale
        real(real64) :: x
        x = exp(loc + scale * sqrt(-2 * log(uniform())) * cos(2 * acos(-1.0_real64) * uniform()))
    end function

    function exponential(rate) result(x)
        real(real64), intent(in) :: rate
        real(real64) :: x
        x = -log(uniform()) / rate
    end function

    function bernoulli(probability) result(k)
        real(real64), intent(in) :: probability
        integer :: k
        k = merge(1, 0, uniform() <= probability)
    end function

    function poisson(rate) result(k)
        real(real64), intent(in) :: rate
        real(real64) :: time
        integer :: k
        k = 0
        time = exponential(1.0_real64)
        do while (time < rate)
            k = k + 1
            time = time + exponential(1.0_real64)
        end do
    end function
end module epidemic

program sir
    use epidemic, only: simulate
    implicit none
    call random_seed()
    call simulate()
end program sir
