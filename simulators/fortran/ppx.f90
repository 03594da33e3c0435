! PPX for Fortran 2008: steer the random choices of a simulator from another process.
!
!     program gaussian
!         use ppx
!         implicit none
!         call ppx_serve(forward, "gaussian")
!     contains
!         subroutine forward()
!             real(ppx_real) :: mu
!             mu = ppx_normal(0.0_ppx_real, 1.0_ppx_real, "mu")        ! a random choice
!             call ppx_observe_normal(mu, 0.5_ppx_real, "y")           ! something measured
!             call ppx_result(mu)
!         end subroutine
!     end program
!
! Compile with `gfortran $(ppx fortran-module) gaussian.f90 $(ppx c-flags) -o gaussian`. It stands on the C library, whose ppx.h says
! more of every statement. Names are trimmed. An index of a Categorical counts from 1 here, and from 0 in the results.
!
! When a controller ends a trace early, the model goes on: its draws come from the prior, and nobody is told. Those
! that want to stop early ask ppx_trace_over() and return. Without a controller, statements draw for themselves.
module ppx
    use, intrinsic :: ieee_arithmetic, only: ieee_quiet_nan, ieee_value
    use, intrinsic :: iso_c_binding
    use, intrinsic :: iso_fortran_env, only: real32, real64, int64
    implicit none
    private

    integer, parameter, public :: ppx_real = real64
    integer, parameter :: dp = real64

    ! Families of array statements; parameters as in the functions of the same name.
    enum, bind(c)
        enumerator :: PPX_FAMILY_NORMAL = 1, PPX_FAMILY_UNIFORM, PPX_FAMILY_CATEGORICAL, PPX_FAMILY_POISSON, &
            PPX_FAMILY_BERNOULLI, PPX_FAMILY_BETA, PPX_FAMILY_EXPONENTIAL, PPX_FAMILY_GAMMA, PPX_FAMILY_LOGNORMAL, &
            PPX_FAMILY_BINOMIAL, PPX_FAMILY_WEIBULL, PPX_FAMILY_TRUNCATED_NORMAL
    end enum
    public :: PPX_FAMILY_NORMAL, PPX_FAMILY_UNIFORM, PPX_FAMILY_CATEGORICAL, PPX_FAMILY_POISSON, &
        PPX_FAMILY_BERNOULLI, PPX_FAMILY_BETA, PPX_FAMILY_EXPONENTIAL, PPX_FAMILY_GAMMA, PPX_FAMILY_LOGNORMAL, &
        PPX_FAMILY_BINOMIAL, PPX_FAMILY_WEIBULL, PPX_FAMILY_TRUNCATED_NORMAL

    public :: ppx_serve, ppx_trace_over, ppx_fail, ppx_seed, ppx_control, ppx_result, ppx_tag
    public :: ppx_scope_enter, ppx_scope_leave, ppx_rejection_begin, ppx_rejection_end
    public :: ppx_normal, ppx_uniform, ppx_categorical, ppx_poisson, ppx_bernoulli, ppx_beta, ppx_exponential
    public :: ppx_gamma, ppx_lognormal, ppx_binomial, ppx_weibull, ppx_truncated_normal
    public :: ppx_random_number, ppx_draw_array, ppx_observe_array
    public :: ppx_observe_normal, ppx_observe_uniform, ppx_observe_categorical, ppx_observe_poisson
    public :: ppx_observe_bernoulli, ppx_observe_beta, ppx_observe_exponential, ppx_observe_gamma
    public :: ppx_observe_lognormal, ppx_observe_binomial, ppx_observe_weibull, ppx_observe_truncated_normal

    ! ppx_uniform(low, high, name), or ppx_uniform() for programs that only call a rand(): in (0, 1).
    interface ppx_uniform
        module procedure uniform_between, uniform_anonymous
    end interface

    ! call ppx_random_number(x [, name]) for call random_number(x), scalar or array, of either kind.
    interface ppx_random_number
        module procedure random_real32, random_real64, random_real32_1d, random_real64_1d, &
            random_real32_2d, random_real64_2d
    end interface

    interface ppx_tag
        module procedure tag_scalar, tag_array
    end interface

    interface ppx_result
        module procedure result_scalar, result_array
    end interface

    abstract interface
        subroutine ppx_model()
        end subroutine
    end interface
    public :: ppx_model

    type, bind(c) :: c_param
        type(c_ptr) :: each = c_null_ptr
        real(c_double) :: all = 0.0_c_double
        integer(c_int32_t) :: categories = 0
    end type

    interface
        function c_serve(forward, user, name, settings) bind(c, name="ppx_serve") result(status)
            import
            type(c_funptr), value :: forward
            type(c_ptr), value :: user, settings
            character(kind=c_char), intent(in) :: name(*)
            integer(c_int) :: status
        end function
        function c_trace_over() bind(c, name="ppx_trace_over") result(over)
            import
            integer(c_int) :: over
        end function
        function c_fail(message) bind(c, name="ppx_fail") result(status)
            import
            character(kind=c_char), intent(in) :: message(*)
            integer(c_int) :: status
        end function
        subroutine c_seed(seed) bind(c, name="ppx_seed")
            import
            integer(c_int64_t), value :: seed
        end subroutine
        function c_control(on) bind(c, name="ppx_control") result(before)
            import
            integer(c_int), value :: on
            integer(c_int) :: before
        end function
        function c_result_array(values, rank, extents) bind(c, name="ppx_result_array") result(status)
            import
            real(c_double), intent(in) :: values(*)
            integer(c_int), value :: rank
            integer(c_int32_t), intent(in) :: extents(*)
            integer(c_int) :: status
        end function
        function c_scope_enter(name) bind(c, name="ppx_scope_enter") result(status)
            import
            character(kind=c_char), intent(in) :: name(*)
            integer(c_int) :: status
        end function
        function c_scope_leave() bind(c, name="ppx_scope_leave") result(status)
            import
            integer(c_int) :: status
        end function
        function c_rejection_begin(name, site) bind(c, name="ppx_rejection_begin_at") result(status)
            import
            character(kind=c_char), intent(in) :: name(*)
            type(c_ptr), value :: site
            integer(c_int) :: status
        end function
        function c_rejection_end() bind(c, name="ppx_rejection_end") result(status)
            import
            integer(c_int) :: status
        end function
        function c_tag_array(values, rank, extents, name, site) bind(c, name="ppx_tag_array_at") result(status)
            import
            real(c_double), intent(in) :: values(*)
            integer(c_int), value :: rank
            integer(c_int32_t), intent(in) :: extents(*)
            character(kind=c_char), intent(in) :: name(*)
            type(c_ptr), value :: site
            integer(c_int) :: status
        end function
        function c_draw(family, num_params, params, name, site) bind(c, name="ppx_draw_at") result(x)
            import
            integer(c_int), value :: family, num_params
            real(c_double), intent(in) :: params(*)
            character(kind=c_char), intent(in) :: name(*)
            type(c_ptr), value :: site
            real(c_double) :: x
        end function
        function c_draw_array(family, num_params, params, rank, extents, out, name, site) &
            bind(c, name="ppx_draw_array_at") result(status)
            import
            integer(c_int), value :: family, num_params, rank
            type(c_param), intent(in) :: params(*)
            integer(c_int32_t), intent(in) :: extents(*)
            real(c_double), intent(out) :: out(*)
            character(kind=c_char), intent(in) :: name(*)
            type(c_ptr), value :: site
            integer(c_int) :: status
        end function
        function c_observe(family, num_params, params, value, name, site) bind(c, name="ppx_observe_at") result(x)
            import
            integer(c_int), value :: family, num_params
            real(c_double), intent(in) :: params(*)
            type(c_ptr), value :: value, site
            character(kind=c_char), intent(in) :: name(*)
            real(c_double) :: x
        end function
        function c_observe_array(family, num_params, params, rank, extents, value, out, name, site) &
            bind(c, name="ppx_observe_array_at") result(status)
            import
            integer(c_int), value :: family, num_params, rank
            type(c_param), intent(in) :: params(*)
            integer(c_int32_t), intent(in) :: extents(*)
            type(c_ptr), value :: value, out, site
            character(kind=c_char), intent(in) :: name(*)
            integer(c_int) :: status
        end function
    end interface

    ! The model that ppx_serve runs.
    procedure(ppx_model), pointer :: served => null()

contains

    ! Serves a model to PPX controllers until SIGTERM, Ctrl-C or a controller's Shutdown. `status`: 0 when told to stop;
    ! if it is absent, a failure ends the program.
    subroutine ppx_serve(forward, name, status)
        procedure(ppx_model) :: forward
        character(*), intent(in) :: name
        integer, intent(out), optional :: status
        integer :: code
        served => forward
        code = c_serve(c_funloc(run_served), c_null_ptr, c_name(name), c_null_ptr)
        if (present(status)) then
            status = code
        else if (code /= 0) then
            error stop 1
        end if
    end subroutine

    function run_served(user) bind(c) result(code)
        type(c_ptr), value :: user
        integer(c_int) :: code
        if (c_associated(user)) continue  ! nothing is handed over
        call served()
        code = 0
    end function

    ! Whether the running trace is over, so that the model may return at once.
    function ppx_trace_over() result(over)
        logical :: over
        over = c_trace_over() /= 0
    end function

    ! Ends the running trace as failed.
    subroutine ppx_fail(message)
        character(*), intent(in) :: message
        call ignore(c_fail(c_name(message)))
    end subroutine

    ! Seeds the draws without a controller.
    subroutine ppx_seed(seed)
        integer(int64), intent(in) :: seed
        call c_seed(seed)
    end subroutine

    ! While off, inference leaves draws to the prior.
    subroutine ppx_control(on)
        logical, intent(in) :: on
        call ignore(c_control(merge(1_c_int, 0_c_int, on)))
    end subroutine

    subroutine result_scalar(value)
        real(dp), intent(in) :: value
        call ignore(c_result_array([value], 0_c_int, [0_c_int32_t]))
    end subroutine

    subroutine result_array(values)
        real(dp), intent(in) :: values(:)
        call ignore(c_result_array(values, 1_c_int, [size(values, kind=c_int32_t)]))
    end subroutine

    subroutine tag_scalar(value, name)
        real(dp), intent(in) :: value
        character(*), intent(in) :: name
        call ignore(c_tag_array([value], 0_c_int, [0_c_int32_t], c_name(name), c_null_ptr))
    end subroutine

    subroutine tag_array(values, name)
        real(dp), intent(in) :: values(:)
        character(*), intent(in) :: name
        call ignore(c_tag_array(values, 1_c_int, [size(values, kind=c_int32_t)], c_name(name), c_null_ptr))
    end subroutine

    ! Until leave, addresses begin with the name and a slash.
    subroutine ppx_scope_enter(name)
        character(*), intent(in) :: name
        call ignore(c_scope_enter(c_name(name)))
    end subroutine

    subroutine ppx_scope_leave()
        call ignore(c_scope_leave())
    end subroutine

    ! Until end, draws belong to a loop that draws until something is accepted.
    subroutine ppx_rejection_begin(name)
        character(*), intent(in) :: name
        call ignore(c_rejection_begin(c_name(name), c_null_ptr))
    end subroutine

    subroutine ppx_rejection_end()
        call ignore(c_rejection_end())
    end subroutine

    ! ---- Draws ----

    function ppx_normal(mean, stddev, name) result(x)
        real(dp), intent(in) :: mean, stddev
        character(*), intent(in) :: name
        real(dp) :: x
        x = draw(PPX_FAMILY_NORMAL, [mean, stddev], name)
    end function

    function uniform_between(low, high, name) result(x)
        real(dp), intent(in) :: low, high
        character(*), intent(in) :: name
        real(dp) :: x
        x = draw(PPX_FAMILY_UNIFORM, [low, high], name)
    end function

    function ppx_poisson(rate, name) result(k)
        real(dp), intent(in) :: rate
        character(*), intent(in) :: name
        integer :: k
        k = count_of(draw(PPX_FAMILY_POISSON, [rate], name), name)
    end function

    function ppx_bernoulli(probability, name) result(k)
        real(dp), intent(in) :: probability
        character(*), intent(in) :: name
        integer :: k
        k = count_of(draw(PPX_FAMILY_BERNOULLI, [probability], name), name)
    end function

    function ppx_beta(concentration1, concentration0, name) result(x)
        real(dp), intent(in) :: concentration1, concentration0
        character(*), intent(in) :: name
        real(dp) :: x
        x = draw(PPX_FAMILY_BETA, [concentration1, concentration0], name)
    end function

    function ppx_exponential(rate, name) result(x)
        real(dp), intent(in) :: rate
        character(*), intent(in) :: name
        real(dp) :: x
        x = draw(PPX_FAMILY_EXPONENTIAL, [rate], name)
    end function

    function ppx_gamma(concentration, rate, name) result(x)
        real(dp), intent(in) :: concentration, rate
        character(*), intent(in) :: name
        real(dp) :: x
        x = draw(PPX_FAMILY_GAMMA, [concentration, rate], name)
    end function

    function ppx_lognormal(loc, scale, name) result(x)
        real(dp), intent(in) :: loc, scale
        character(*), intent(in) :: name
        real(dp) :: x
        x = draw(PPX_FAMILY_LOGNORMAL, [loc, scale], name)
    end function

    function ppx_binomial(total_count, probability, name) result(k)
        integer, intent(in) :: total_count
        real(dp), intent(in) :: probability
        character(*), intent(in) :: name
        integer :: k
        k = count_of(draw(PPX_FAMILY_BINOMIAL, [real(total_count, dp), probability], name), name)
    end function

    function ppx_weibull(scale, concentration, name) result(x)
        real(dp), intent(in) :: scale, concentration
        character(*), intent(in) :: name
        real(dp) :: x
        x = draw(PPX_FAMILY_WEIBULL, [scale, concentration], name)
    end function

    function ppx_truncated_normal(mean, stddev, low, high, name) result(x)
        real(dp), intent(in) :: mean, stddev, low, high
        character(*), intent(in) :: name
        real(dp) :: x
        x = draw(PPX_FAMILY_TRUNCATED_NORMAL, [mean, stddev, low, high], name)
    end function

    ! An index into probs, from 1.
    function ppx_categorical(probs, name) result(k)
        real(dp), intent(in), contiguous :: probs(:)
        character(*), intent(in) :: name
        integer :: k
        k = 1 + count_of(draw(PPX_FAMILY_CATEGORICAL, probs, name), name)
    end function

    function uniform_anonymous() result(x)
        real(dp) :: x
        x = uniform_between(0.0_dp, 1.0_dp, "uniform")
    end function

    ! Independent draws, element by element in memory order. Each parameter holds one number for all, or one for each
    ! element; of Categorical, the probabilities of the first element, then those of the second, and so on.
    subroutine ppx_draw_array(family, x, name, p1, p2, p3, p4)
        integer(c_int), intent(in) :: family
        real(dp), intent(out), contiguous :: x(:)
        character(*), intent(in) :: name
        real(dp), intent(in), contiguous, target :: p1(:)
        real(dp), intent(in), contiguous, target, optional :: p2(:), p3(:), p4(:)
        type(c_param) :: params(4)
        integer :: n
        n = size(x)
        call set_params(params, family, n, p1, p2, p3, p4)
        call ignore(c_draw_array(family, count_params(p2, p3, p4), params, 1_c_int, [int(n, c_int32_t)], x, &
            c_name(name), c_null_ptr))
    end subroutine

    subroutine random_real64(x, name)
        real(real64), intent(out) :: x
        character(*), intent(in), optional :: name
        if (present(name)) then
            x = uniform_between(0.0_dp, 1.0_dp, name)
        else
            x = uniform_between(0.0_dp, 1.0_dp, "random_number")
        end if
    end subroutine

    subroutine random_real32(x, name)
        real(real32), intent(out) :: x
        character(*), intent(in), optional :: name
        real(real64) :: wide
        call random_real64(wide, name)
        x = narrow(wide)
    end subroutine

    subroutine random_real64_1d(x, name)
        real(real64), intent(out), contiguous :: x(:)
        character(*), intent(in), optional :: name
        if (size(x) == 0) return
        if (present(name)) then
            call ppx_draw_array(PPX_FAMILY_UNIFORM, x, name, [0.0_dp], [1.0_dp])
        else
            call ppx_draw_array(PPX_FAMILY_UNIFORM, x, "random_number", [0.0_dp], [1.0_dp])
        end if
    end subroutine

    subroutine random_real32_1d(x, name)
        real(real32), intent(out) :: x(:)
        character(*), intent(in), optional :: name
        real(real64), allocatable :: wide(:)  ! on the heap: -Ofast puts automatic arrays on the stack
        allocate(wide(size(x)))
        call random_real64_1d(wide, name)
        x = narrow(wide)
    end subroutine

    subroutine random_real64_2d(x, name)
        real(real64), intent(out) :: x(:, :)
        character(*), intent(in), optional :: name
        real(real64), allocatable :: flat(:)
        integer :: j
        allocate(flat(size(x)))
        call random_real64_1d(flat, name)
        do j = 1, size(x, 2)
            x(:, j) = flat((j - 1) * size(x, 1) + 1:j * size(x, 1))
        end do
    end subroutine

    subroutine random_real32_2d(x, name)
        real(real32), intent(out) :: x(:, :)
        character(*), intent(in), optional :: name
        real(real64), allocatable :: flat(:)
        integer :: j
        allocate(flat(size(x)))
        call random_real64_1d(flat, name)
        do j = 1, size(x, 2)
            x(:, j) = narrow(flat((j - 1) * size(x, 1) + 1:j * size(x, 1)))
        end do
    end subroutine

    ! Below 1, as random_number promises.
    elemental function narrow(wide) result(x)
        real(real64), intent(in) :: wide
        real(real32) :: x
        x = min(real(wide, real32), nearest(1.0_real32, -1.0_real32))
    end function

    ! ---- Observations: `value` was measured, where the simulator knows it; `observed` is what the controller says ----

    subroutine ppx_observe_normal(mean, stddev, name, value, observed)
        real(dp), intent(in) :: mean, stddev
        character(*), intent(in) :: name
        real(dp), intent(in), optional :: value
        real(dp), intent(out), optional :: observed
        call compare(PPX_FAMILY_NORMAL, [mean, stddev], name, value, observed)
    end subroutine

    subroutine ppx_observe_uniform(low, high, name, value, observed)
        real(dp), intent(in) :: low, high
        character(*), intent(in) :: name
        real(dp), intent(in), optional :: value
        real(dp), intent(out), optional :: observed
        call compare(PPX_FAMILY_UNIFORM, [low, high], name, value, observed)
    end subroutine

    subroutine ppx_observe_poisson(rate, name, value, observed)
        real(dp), intent(in) :: rate
        character(*), intent(in) :: name
        real(dp), intent(in), optional :: value
        real(dp), intent(out), optional :: observed
        call compare(PPX_FAMILY_POISSON, [rate], name, value, observed)
    end subroutine

    subroutine ppx_observe_bernoulli(probability, name, value, observed)
        real(dp), intent(in) :: probability
        character(*), intent(in) :: name
        real(dp), intent(in), optional :: value
        real(dp), intent(out), optional :: observed
        call compare(PPX_FAMILY_BERNOULLI, [probability], name, value, observed)
    end subroutine

    subroutine ppx_observe_beta(concentration1, concentration0, name, value, observed)
        real(dp), intent(in) :: concentration1, concentration0
        character(*), intent(in) :: name
        real(dp), intent(in), optional :: value
        real(dp), intent(out), optional :: observed
        call compare(PPX_FAMILY_BETA, [concentration1, concentration0], name, value, observed)
    end subroutine

    subroutine ppx_observe_exponential(rate, name, value, observed)
        real(dp), intent(in) :: rate
        character(*), intent(in) :: name
        real(dp), intent(in), optional :: value
        real(dp), intent(out), optional :: observed
        call compare(PPX_FAMILY_EXPONENTIAL, [rate], name, value, observed)
    end subroutine

    subroutine ppx_observe_gamma(concentration, rate, name, value, observed)
        real(dp), intent(in) :: concentration, rate
        character(*), intent(in) :: name
        real(dp), intent(in), optional :: value
        real(dp), intent(out), optional :: observed
        call compare(PPX_FAMILY_GAMMA, [concentration, rate], name, value, observed)
    end subroutine

    subroutine ppx_observe_lognormal(loc, scale, name, value, observed)
        real(dp), intent(in) :: loc, scale
        character(*), intent(in) :: name
        real(dp), intent(in), optional :: value
        real(dp), intent(out), optional :: observed
        call compare(PPX_FAMILY_LOGNORMAL, [loc, scale], name, value, observed)
    end subroutine

    subroutine ppx_observe_binomial(total_count, probability, name, value, observed)
        integer, intent(in) :: total_count
        real(dp), intent(in) :: probability
        character(*), intent(in) :: name
        real(dp), intent(in), optional :: value
        real(dp), intent(out), optional :: observed
        call compare(PPX_FAMILY_BINOMIAL, [real(total_count, dp), probability], name, value, observed)
    end subroutine

    subroutine ppx_observe_weibull(scale, concentration, name, value, observed)
        real(dp), intent(in) :: scale, concentration
        character(*), intent(in) :: name
        real(dp), intent(in), optional :: value
        real(dp), intent(out), optional :: observed
        call compare(PPX_FAMILY_WEIBULL, [scale, concentration], name, value, observed)
    end subroutine

    subroutine ppx_observe_truncated_normal(mean, stddev, low, high, name, value, observed)
        real(dp), intent(in) :: mean, stddev, low, high
        character(*), intent(in) :: name
        real(dp), intent(in), optional :: value
        real(dp), intent(out), optional :: observed
        call compare(PPX_FAMILY_TRUNCATED_NORMAL, [mean, stddev, low, high], name, value, observed)
    end subroutine

    ! Indices into probs count from 1.
    subroutine ppx_observe_categorical(probs, name, value, observed)
        real(dp), intent(in), contiguous :: probs(:)
        character(*), intent(in) :: name
        integer, intent(in), optional :: value
        integer, intent(out), optional :: observed
        real(dp) :: x
        if (present(value)) then
            call compare(PPX_FAMILY_CATEGORICAL, probs, name, real(value - 1, dp), x)
        else
            call compare(PPX_FAMILY_CATEGORICAL, probs, name, observed=x)
        end if
        if (present(observed)) observed = 1 + count_of(x, name)
    end subroutine

    ! n independent measurements; parameters as in ppx_draw_array.
    subroutine ppx_observe_array(family, n, name, p1, p2, p3, p4, value, observed)
        integer(c_int), intent(in) :: family
        integer, intent(in) :: n
        character(*), intent(in) :: name
        real(dp), intent(in), contiguous, target :: p1(:)
        real(dp), intent(in), contiguous, target, optional :: p2(:), p3(:), p4(:), value(:)
        real(dp), intent(out), contiguous, target, optional :: observed(:)
        type(c_param) :: params(4)
        type(c_ptr) :: given, out
        given = c_null_ptr
        out = c_null_ptr
        if (present(value)) then
            if (size(value) /= n) then
                call ppx_fail("observation '" // name // "': `value` has not n elements")
                return
            end if
            given = c_loc(value)
        end if
        if (present(observed)) then
            if (size(observed) /= n) then
                call ppx_fail("observation '" // name // "': `observed` has not n elements")
                return
            end if
            out = c_loc(observed)
        end if
        call set_params(params, family, n, p1, p2, p3, p4)
        call ignore(c_observe_array(family, count_params(p2, p3, p4), params, 1_c_int, [int(n, c_int32_t)], given, &
            out, c_name(name), c_null_ptr))
    end subroutine

    ! ---- Behind them ----

    function draw(family, params, name) result(x)
        integer(c_int), intent(in) :: family
        real(dp), intent(in), contiguous :: params(:)
        character(*), intent(in) :: name
        real(dp) :: x
        character(kind=c_char, len=len(name) + 1) :: text  ! on the stack, unlike what c_name returns
        text = name
        text(len_trim(text) + 1:) = c_null_char
        x = c_draw(family, size(params, kind=c_int), params, text, c_null_ptr)
    end function

    subroutine compare(family, params, name, value, observed)
        integer(c_int), intent(in) :: family
        real(dp), intent(in), contiguous :: params(:)
        character(*), intent(in) :: name
        real(dp), intent(in), optional :: value
        real(dp), intent(out), optional :: observed
        real(dp), target :: given
        real(dp) :: x
        type(c_ptr) :: address
        address = c_null_ptr
        if (present(value)) then
            given = value
            address = c_loc(given)
        end if
        x = c_observe(family, size(params, kind=c_int), params, address, c_name(name), c_null_ptr)
        if (present(observed)) observed = x
    end subroutine

    ! A count as a default integer; 0 where it is none.
    function count_of(x, name) result(k)
        real(dp), intent(in) :: x
        character(*), intent(in) :: name
        integer :: k
        k = 0
        if (abs(x) <= real(huge(k), dp)) then
            k = nint(x)
        else if (abs(x) > real(huge(k), dp)) then
            call ppx_fail("draw '" // name // "' does not fit into a default integer")
        end if
    end function

    subroutine set_params(params, family, n, p1, p2, p3, p4)
        type(c_param), intent(out) :: params(4)
        integer(c_int), intent(in) :: family
        integer, intent(in) :: n
        real(dp), intent(in), contiguous, target :: p1(:)
        real(dp), intent(in), contiguous, target, optional :: p2(:), p3(:), p4(:)
        call set_param(params(1), family, n, p1)
        if (present(p2)) call set_param(params(2), family, n, p2)
        if (present(p3)) call set_param(params(3), family, n, p3)
        if (present(p4)) call set_param(params(4), family, n, p4)
    end subroutine

    subroutine set_param(param, family, n, values)
        type(c_param), intent(inout) :: param
        integer(c_int), intent(in) :: family
        integer, intent(in) :: n
        real(dp), intent(in), contiguous, target :: values(:)
        if (family == PPX_FAMILY_CATEGORICAL .and. n > 0) param%categories = int(size(values) / n, c_int32_t)
        if (family /= PPX_FAMILY_CATEGORICAL .and. size(values) == 1) then
            param%all = values(1)
        else if (size(values) == n * max(1, int(param%categories))) then
            param%each = c_loc(values)
        else
            call ppx_fail("a parameter of an array statement has neither one element nor one for each")
            param%all = ieee_value(param%all, ieee_quiet_nan)
        end if
    end subroutine

    function count_params(p2, p3, p4) result(n)
        real(dp), intent(in), optional :: p2(:), p3(:), p4(:)
        integer(c_int) :: n
        n = 1 + merge(1, 0, present(p2)) + merge(1, 0, present(p3)) + merge(1, 0, present(p4))
    end function

    ! A name without its trailing blanks, as C wants it.
    pure function c_name(name) result(text)
        character(*), intent(in) :: name
        character(kind=c_char, len=len_trim(name) + 1) :: text
        text = name
        text(len(text):) = c_null_char
    end function

    ! The C library remembers what a status says.
    subroutine ignore(status)
        integer(c_int), intent(in) :: status
        if (status /= 0) continue
    end subroutine

end module
