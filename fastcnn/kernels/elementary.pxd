"""exp, sigmoid, tanh and the normal distribution for the kernels' inner loops, in arithmetic that vectorises.

There is no call and no branch, only +, -, *, /, selections and two bit tricks, so a loop around these functions becomes
vector code on any instruction set, and gives the same bits whether an element is done by the vector or the scalar
part. Errors measured against exact values, in units in the last place of float32 | float64:

    exponential                1.1 | 1.1     0 below 1.6e-38 | 3.3e-308
    sigmoid                    2.0 | 2.0
    hyperbolic_tangent         2.4 | 2.4
    normal_probability         3.9 | 3.8     on both sides, far into the tail; 0 below 1.3e-38 | 3.3e-308
    normal_density             2.0 | 2.0

NaN gives NaN, infinities their limits. The polynomials are minimax approximations found by Remez exchange in 50 digits.
"""

from cython cimport floating
from libc.math cimport INFINITY

cdef extern from "bits.h" nogil:
    float fastcnn_half_power32(float)
    double fastcnn_half_power64(double)
    float fastcnn_upper_half32(float)
    double fastcnn_upper_half64(double)


cdef inline floating _reduce(floating high, floating low, floating* half_power) noexcept nogil:
    """p and h = 2^(n-1) with exp(high - low) = 2h(1 + p), n the nearest integer to (high - low) / log(2).

    log(2) is taken off in two parts, the first with so few bits that its multiple is exact (Cody and Waite 1980).
    """
    cdef floating shifted, n, r, q
    if floating is float:
        shifted = (high - low) * <float>1.4426950408889634 + <float>12582912
        n = shifted - <float>12582912
        half_power[0] = fastcnn_half_power32(shifted)
        r = high - n * <float>0.693359375 - n * <float>-2.12194440e-4 - low
        q = <float>0.0013941121
        q = q * r + <float>0.008363184
        q = q * r + <float>0.041666374
        q = q * r + <float>0.16666576
    else:
        shifted = (high - low) * 1.4426950408889634 + 6755399441055744.0
        n = shifted - 6755399441055744.0
        half_power[0] = fastcnn_half_power64(shifted)
        r = high - n * 0.693147180369123816490 - n * 1.90821492927058770002e-10 - low
        q = 2.5110049895858716e-08
        q = q * r + 2.7620090518499427e-07
        q = q * r + 2.7557242336680357e-06
        q = q * r + 2.4801521290973345e-05
        q = q * r + 0.00019841269886591
        q = q * r + 0.0013888888917217457
        q = q * r + 0.008333333333322207
        q = q * r + 0.04166666666662412
        q = q * r + 0.16666666666666674
    return r + r * r * (q * r + <floating>0.5)


cdef inline floating _exp_of_difference(floating high, floating low) noexcept nogil:
    """exp(high - low), where `low` is the rounding error of `high` or 0."""
    cdef floating least = -86.9 if floating is float else -708.0
    cdef floating most = 88.72284 if floating is float else 709.782712893384
    cdef floating h
    cdef floating p = _reduce(high, low, &h)
    cdef floating y = (h * p + h) * <floating>2
    y = <floating>0 if high < least else y
    return <floating>INFINITY if high > most else y


cdef inline floating exponential(floating x) noexcept nogil:
    return _exp_of_difference(x, <floating>0)


cdef inline floating sigmoid(floating x) noexcept nogil:
    return <floating>1 / (<floating>1 + exponential(-x))


cdef inline floating hyperbolic_tangent(floating x) noexcept nogil:
    """(1 - exp(-2|x|)) / (1 + exp(-2|x|)), the numerator without cancellation; x itself where x is tiny."""
    cdef floating y = <floating>2 * x if x < 0 else <floating>-2 * x
    cdef floating h, p, numerator, result
    y = <floating>-40 if y < -40 else y
    p = _reduce(y, <floating>0, &h)
    h = <floating>2 * h
    numerator = (<floating>1 - h) - h * p
    result = numerator / (<floating>2 - numerator)
    result = -result if x < 0 else result
    return x if -<floating>1e-10 < x < <floating>1e-10 else result


cdef inline floating _gauss(floating x) noexcept nogil:
    """exp(-x^2 / 2), from x^2 in two parts: its rounding error alone would be many units of the result's."""
    cdef floating upper
    x = <floating>40 if x > 40 else x
    x = <floating>-40 if x < -40 else x
    if floating is float:
        upper = fastcnn_upper_half32(x)
    else:
        upper = fastcnn_upper_half64(x)
    return _exp_of_difference(<floating>-0.5 * upper * upper, <floating>0.5 * (x - upper) * (x + upper))


cdef inline floating normal_density(floating x) noexcept nogil:
    """Density of the standard normal distribution."""
    return _gauss(x) * <floating>0.39894228040143267794


cdef inline floating normal_probability(floating x) noexcept nogil:
    """Probability of a standard normal value below x: erfc(-x / sqrt(2)) / 2.

    erfc(a) = exp(-a^2) P(t) / (1 + 2a) with t = (a - 3) / (a + 3), where P is smooth on all of a >= 0.

    References
    ----------
    M. M. Shepherd, J. G. Laframboise, "Chebyshev approximation of (1 + 2x) exp(x^2) erfc(x) in 0 <= x < infinity",
    Mathematics of Computation 36 (1981).
    """
    cdef floating a = (-x if x < 0 else x) * <floating>0.70710678118654752440
    cdef floating limit = 9.5 if floating is float else 26.7
    cdef floating t, p, tail
    a = limit if a > limit else a
    t = (a - <floating>3) / (a + <floating>3)
    if floating is float:
        p = <float>-0.00027374931960366666
        p = p * t + <float>-0.0007929094135761261
        p = p * t + <float>0.0019910491537302732
        p = p * t + <float>0.002571364864706993
        p = p * t + <float>-0.023791106417775154
        p = p * t + <float>0.06829627603292465
        p = p * t + <float>-0.11927205324172974
        p = p * t + <float>0.12964625656604767
        p = p * t + <float>-0.047562338411808014
        p = p * t + <float>-0.13562113046646118
        p = p * t + <float>1.2530080080032349
    else:
        p = -3.934690126244391e-09
        p = p * t + -7.834726259640017e-09
        p = p * t + 3.2462997313690724e-08
        p = p * t + 8.973414696527749e-08
        p = p * t + -1.3130383505510998e-07
        p = p * t + -6.02100658484949e-07
        p = p * t + 3.500023335911746e-07
        p = p * t + 3.461790193633389e-06
        p = p * t + -7.286434378947934e-07
        p = p * t + -2.0095607188078723e-05
        p = p * t + 4.948714015127775e-06
        p = p * t + 0.00012509785323698398
        p = p * t + -0.00010515966738839436
        p = p * t + -0.0007798319835449206
        p = p * t + 0.0018886903447860185
        p = p * t + 0.0025293917823036114
        p = p * t + -0.023770514917667924
        p = p * t + 0.06830802734616664
        p = p * t + -0.11927366341534751
        p = p * t + 0.12964515870269527
        p = p * t + -0.04756229435345005
        p = p * t + -0.1356211061245806
        p = p * t + 1.2530080582697296
    tail = <floating>0.5 * _gauss(x) * p / (<floating>1 + <floating>2 * a)
    return tail if x < 0 else <floating>1 - tail
