// Stand-ins for <random>: a simulator written against it becomes controllable when `std::` becomes `ppx_client::`.
//
//     #include <ppx_client/random.hpp>
//     ppx_client::normal_distribution<> noise(0.0, 1.0);  // was: std::normal_distribution<> noise(0.0, 1.0);
//     const double x = noise(generator);                  // a draw from Normal, wherever the generator comes from
//
// The distributions have the interface of those in <random>. They ignore the generator. The address of a draw is where
// the distribution is called, or its name if it was given one, as first argument: `normal_distribution<> d("x", 0, 1)`.
// Distributions that are no family of PPX are made of such, exactly: their draws are parts of the address
// (`x/exponential`), and the number that the program gets is reported under its name, if it has one.
// Two that are called in one expression draw in the order that the compiler chooses. Those that the library calls, as
// it does what std::bind has bound, share a place inside the library, which is another one in other versions of it: give
// each a name.
//
// `random_bit_generator` controls what cannot be changed: std:: distributions and algorithms that are fed by it.
// Inference then sees its uniform numbers only, as visits of one address. Where the library draws until something is
// accepted, as in std::normal_distribution, their number varies; and as that keeps a number for its next call, it must
// be made anew, or reset, in each trace.
#pragma once

#include <initializer_list>
#include <istream>
#include <ostream>
#include <random>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "ppx_client/random_bits.hpp"
#include "ppx_client/random_draws.hpp"
#include "ppx_client/uniform.hpp"

namespace ppx_client {

namespace detail {

/// A distribution of <random> as far as its parameters go, whose draws are controlled.
template <class Derived, class Std>
class Adapted : protected Std {
  public:
    using result_type = typename Std::result_type;

    class param_type : public Std::param_type {
        using Base = typename Std::param_type;

      public:
        using distribution_type = Derived;
        using Base::Base;
        param_type() = default;
        param_type(const Base& params) : Base(params) {}
    };

    Adapted() = default;
    using Std::Std;

    /// Gives its draws a name; the other arguments are those of <random>.
    template <class Name, class... Args, std::enable_if_t<is_name<Name>, int> = 0>
    explicit Adapted(const Name& name, Args&&... args)
        : Std(std::forward<Args>(args)...), name_(std::string_view(name)) {}

    template <class Name, std::enable_if_t<is_name<Name>, int> = 0>
    Adapted(const Name& name, std::initializer_list<double> numbers) : Std(numbers), name_(std::string_view(name)) {}

    using Std::max;
    using Std::min;
    using Std::reset;
    param_type param() const { return Std::param(); }
    void param(const param_type& params) { Std::param(params); }

    template <class Generator>
    result_type operator()(Generator&, CallSite site = CallSite::current()) {
        return draw(static_cast<const Std*>(this), static_cast<const Std&>(*this), Label{name_, site});
    }

    template <class Generator>
    result_type operator()(Generator&, const param_type& params, CallSite site = CallSite::current()) {
        return draw(static_cast<const Std*>(this), params, Label{name_, site});
    }

    friend bool operator==(const Adapted& a, const Adapted& b) {
        return static_cast<const Std&>(a) == static_cast<const Std&>(b);
    }
    friend bool operator!=(const Adapted& a, const Adapted& b) { return !(a == b); }

    template <class C, class T>
    friend std::basic_ostream<C, T>& operator<<(std::basic_ostream<C, T>& stream, const Adapted& distribution) {
        return stream << static_cast<const Std&>(distribution);
    }
    template <class C, class T>
    friend std::basic_istream<C, T>& operator>>(std::basic_istream<C, T>& stream, Adapted& distribution) {
        return stream >> static_cast<Std&>(distribution);
    }

  private:
    std::string name_;
};

/// The type that a constructor's first argument says, if it is a number.
template <class First, class Default>
using Deduced = std::conditional_t<std::is_arithmetic_v<First>, First, Default>;

}  // namespace detail

template <class I = int>
class uniform_int_distribution : public detail::Adapted<uniform_int_distribution<I>, std::uniform_int_distribution<I>> {
    using Base = detail::Adapted<uniform_int_distribution, std::uniform_int_distribution<I>>;

  public:
    using Base::Base;
    using Base::a;
    using Base::b;
};
template <class A, class... B>
uniform_int_distribution(A, B...) -> uniform_int_distribution<detail::Deduced<A, int>>;

template <class R = double>
class uniform_real_distribution
    : public detail::Adapted<uniform_real_distribution<R>, std::uniform_real_distribution<R>> {
    using Base = detail::Adapted<uniform_real_distribution, std::uniform_real_distribution<R>>;

  public:
    using Base::Base;
    using Base::a;
    using Base::b;
};
template <class A, class... B>
uniform_real_distribution(A, B...) -> uniform_real_distribution<detail::Deduced<A, double>>;

class bernoulli_distribution : public detail::Adapted<bernoulli_distribution, std::bernoulli_distribution> {
    using Base = detail::Adapted<bernoulli_distribution, std::bernoulli_distribution>;

  public:
    using Base::Base;
    using Base::p;
};

template <class I = int>
class binomial_distribution : public detail::Adapted<binomial_distribution<I>, std::binomial_distribution<I>> {
    using Base = detail::Adapted<binomial_distribution, std::binomial_distribution<I>>;

  public:
    using Base::Base;
    using Base::t;
    using Base::p;
};
template <class A, class... B>
binomial_distribution(A, B...) -> binomial_distribution<detail::Deduced<A, int>>;

template <class I = int>
class negative_binomial_distribution
    : public detail::Adapted<negative_binomial_distribution<I>, std::negative_binomial_distribution<I>> {
    using Base = detail::Adapted<negative_binomial_distribution, std::negative_binomial_distribution<I>>;

  public:
    using Base::Base;
    using Base::k;
    using Base::p;
};
template <class A, class... B>
negative_binomial_distribution(A, B...) -> negative_binomial_distribution<detail::Deduced<A, int>>;

template <class I = int>
class geometric_distribution : public detail::Adapted<geometric_distribution<I>, std::geometric_distribution<I>> {
    using Base = detail::Adapted<geometric_distribution, std::geometric_distribution<I>>;

  public:
    using Base::Base;
    using Base::p;
};
template <class A, class... B>
geometric_distribution(A, B...) -> geometric_distribution<>;

template <class I = int>
class poisson_distribution : public detail::Adapted<poisson_distribution<I>, std::poisson_distribution<I>> {
    using Base = detail::Adapted<poisson_distribution, std::poisson_distribution<I>>;

  public:
    using Base::Base;
    using Base::mean;
};
template <class A, class... B>
poisson_distribution(A, B...) -> poisson_distribution<>;

template <class R = double>
class exponential_distribution : public detail::Adapted<exponential_distribution<R>, std::exponential_distribution<R>> {
    using Base = detail::Adapted<exponential_distribution, std::exponential_distribution<R>>;

  public:
    using Base::Base;
    using Base::lambda;
};
template <class A, class... B>
exponential_distribution(A, B...) -> exponential_distribution<detail::Deduced<A, double>>;

template <class R = double>
class gamma_distribution : public detail::Adapted<gamma_distribution<R>, std::gamma_distribution<R>> {
    using Base = detail::Adapted<gamma_distribution, std::gamma_distribution<R>>;

  public:
    using Base::Base;
    using Base::alpha;
    using Base::beta;
};
template <class A, class... B>
gamma_distribution(A, B...) -> gamma_distribution<detail::Deduced<A, double>>;

template <class R = double>
class weibull_distribution : public detail::Adapted<weibull_distribution<R>, std::weibull_distribution<R>> {
    using Base = detail::Adapted<weibull_distribution, std::weibull_distribution<R>>;

  public:
    using Base::Base;
    using Base::a;
    using Base::b;
};
template <class A, class... B>
weibull_distribution(A, B...) -> weibull_distribution<detail::Deduced<A, double>>;

template <class R = double>
class extreme_value_distribution
    : public detail::Adapted<extreme_value_distribution<R>, std::extreme_value_distribution<R>> {
    using Base = detail::Adapted<extreme_value_distribution, std::extreme_value_distribution<R>>;

  public:
    using Base::Base;
    using Base::a;
    using Base::b;
};
template <class A, class... B>
extreme_value_distribution(A, B...) -> extreme_value_distribution<detail::Deduced<A, double>>;

template <class R = double>
class normal_distribution : public detail::Adapted<normal_distribution<R>, std::normal_distribution<R>> {
    using Base = detail::Adapted<normal_distribution, std::normal_distribution<R>>;

  public:
    using Base::Base;
    using Base::mean;
    using Base::stddev;
};
template <class A, class... B>
normal_distribution(A, B...) -> normal_distribution<detail::Deduced<A, double>>;

template <class R = double>
class lognormal_distribution : public detail::Adapted<lognormal_distribution<R>, std::lognormal_distribution<R>> {
    using Base = detail::Adapted<lognormal_distribution, std::lognormal_distribution<R>>;

  public:
    using Base::Base;
    using Base::m;
    using Base::s;
};
template <class A, class... B>
lognormal_distribution(A, B...) -> lognormal_distribution<detail::Deduced<A, double>>;

template <class R = double>
class chi_squared_distribution : public detail::Adapted<chi_squared_distribution<R>, std::chi_squared_distribution<R>> {
    using Base = detail::Adapted<chi_squared_distribution, std::chi_squared_distribution<R>>;

  public:
    using Base::Base;
    using Base::n;
};
template <class A, class... B>
chi_squared_distribution(A, B...) -> chi_squared_distribution<detail::Deduced<A, double>>;

template <class R = double>
class cauchy_distribution : public detail::Adapted<cauchy_distribution<R>, std::cauchy_distribution<R>> {
    using Base = detail::Adapted<cauchy_distribution, std::cauchy_distribution<R>>;

  public:
    using Base::Base;
    using Base::a;
    using Base::b;
};
template <class A, class... B>
cauchy_distribution(A, B...) -> cauchy_distribution<detail::Deduced<A, double>>;

template <class R = double>
class fisher_f_distribution : public detail::Adapted<fisher_f_distribution<R>, std::fisher_f_distribution<R>> {
    using Base = detail::Adapted<fisher_f_distribution, std::fisher_f_distribution<R>>;

  public:
    using Base::Base;
    using Base::m;
    using Base::n;
};
template <class A, class... B>
fisher_f_distribution(A, B...) -> fisher_f_distribution<detail::Deduced<A, double>>;

template <class R = double>
class student_t_distribution : public detail::Adapted<student_t_distribution<R>, std::student_t_distribution<R>> {
    using Base = detail::Adapted<student_t_distribution, std::student_t_distribution<R>>;

  public:
    using Base::Base;
    using Base::n;
};
template <class A, class... B>
student_t_distribution(A, B...) -> student_t_distribution<detail::Deduced<A, double>>;

template <class I = int>
class discrete_distribution : public detail::Adapted<discrete_distribution<I>, std::discrete_distribution<I>> {
    using Base = detail::Adapted<discrete_distribution, std::discrete_distribution<I>>;

  public:
    using Base::Base;
    using Base::probabilities;
};
template <class A, class... B>
discrete_distribution(A, B...) -> discrete_distribution<>;
discrete_distribution(std::initializer_list<double>)->discrete_distribution<>;

template <class R = double>
class piecewise_constant_distribution
    : public detail::Adapted<piecewise_constant_distribution<R>, std::piecewise_constant_distribution<R>> {
    using Base = detail::Adapted<piecewise_constant_distribution, std::piecewise_constant_distribution<R>>;

  public:
    using Base::Base;
    using Base::intervals;
    using Base::densities;
};
template <class A, class... B>
piecewise_constant_distribution(A, B...) -> piecewise_constant_distribution<>;

template <class R = double>
class piecewise_linear_distribution
    : public detail::Adapted<piecewise_linear_distribution<R>, std::piecewise_linear_distribution<R>> {
    using Base = detail::Adapted<piecewise_linear_distribution, std::piecewise_linear_distribution<R>>;

  public:
    using Base::Base;
    using Base::intervals;
    using Base::densities;
};
template <class A, class... B>
piecewise_linear_distribution(A, B...) -> piecewise_linear_distribution<>;

}  // namespace ppx_client
