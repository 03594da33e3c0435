! Random numbers of every kind and shape, without a controller, in the order in which they are drawn.
program numbers
    use ppx
    use, intrinsic :: iso_fortran_env, only: real32, real64, int64
    implicit none
    real(real64) :: x, row(3), table(2, 3), few(2)
    real(real32) :: x4, row4(3), table4(2, 2)
    real(real32), allocatable :: large(:, :)
    call ppx_seed(7_int64)
    call ppx_random_number(x)
    call ppx_random_number(row)
    call ppx_random_number(table, "a table")
    print '(*(g0, 1x))', x, row, table, ppx_uniform(), ppx_uniform(0.0_real64, 1.0_real64, "u")
    call ppx_random_number(x4)
    call ppx_random_number(row4)
    call ppx_random_number(table4)
    print '(*(g0, 1x))', x4, row4, table4
    call ppx_observe_array(PPX_FAMILY_NORMAL, 3, "y", row, [1.0_real64], value=few)
    x = ppx_normal(0.0_real64, -1.0_real64, "negative  ")
    call ppx_draw_array(PPX_FAMILY_NORMAL, row, "few", few, [1.0_real64])
    allocate (large(1200, 1000))
    call ppx_random_number(large)  ! more than a stack of 8 MiB holds
    if (maxval(large) >= 1.0) error stop "a number that is not below 1"
end program
