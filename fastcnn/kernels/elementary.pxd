"""exp, sigmoid, tanh and the normal distribution for the kernels' inner loops, in arithmetic that vectorises.

There is no call and no branch, only +, -, *, /, selections and two bit tricks, so a loop around these functions becomes
vector code on any instruction set, and gives the same bits whether an element is done by the vector or the scalar
part. Errors measured against exact values, in units in the last place of float32 | float64:

    exponential                1.3 | 1.1     0 where it is below 1.9e-38 | 3.4e-308
    sigmoid                    2.5 | 2.2
    hyperbolic_tangent         2.5 | 2.5
    normal_probability         4.7 | 4.3     on both sides, far into the tail; 0 where exp(-x^2 / 2) is
    normal_density             2.2 | 2.1

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

    erfc(a) = exp(-a^2) P(t) 4 / (a + 4) with t = (a - 4) / (a + 4), where P is smooth on all of a >= 0.

    References
    ----------
    M. M. Shepherd, J. G. Laframboise, "Chebyshev approximation of (1 + 2x) exp(x^2) erfc(x) in 0 <= x < infinity",
    Mathematics of Computation 36 (1981).
    """
    cdef floating a = (-x if x < 0 else x) * <floating>0.70710678118654752440
    cdef floating limit = 9.5 if floating is float else 26.7
    cdef floating r, t, p, tail
    a = limit if a > limit else a
    r = <floating>1 / (a + <floating>4)
    t = <floating>2 * a * r - <floating>1
    if floating is float:
        p = <float>-0.00019391061505302787
        p = p * t + <float>-0.00011046078725485131
        p = p * t + <float>0.0015438441187143326
        p = p * t + <float>-0.006573383696377277
        p = p * t + <float>0.01909676566720009
        p = p * t + <float>-0.043505363166332245
        p = p * t + <float>0.08271247893571854
        p = p * t + <float>-0.13521331548690796
        p = p * t + <float>0.1933021992444992
        p = p * t + <float>-0.24413718283176422
        p = p * t + <float>0.2739989161491394
    else:
        p = -7.944270757539928e-10
        p = p * t + -3.710395891773563e-09
        p = p * t + 2.5165197350141325e-09
        p = p * t + 3.175672159502318e-08
        p = p * t + -2.159261837905014e-08
        p = p * t + -2.1289565749823728e-07
        p = p * t + 3.578184742937988e-07
        p = p * t + 1.174672667115312e-06
        p = p * t + -4.715923771366643e-06
        p = p * t + -9.092700458869176e-07
        p = p * t + 4.4203379204972046e-05
        p = p * t + -0.00011376304297901305
        p = p * t + -7.023974353598636e-05
        p = p * t + 0.0015280138933008495
        p = p * t + -0.006592513332516465
        p = p * t + 0.019095378729223556
        p = p * t + -0.04350273431012086
        p = p * t + 0.08271289696941467
        p = p * t + -0.13521345782830518
        p = p * t + 0.19330217556631088
        p = p * t + -0.24413718227022052
        p = p * t + 0.27399891525012277
    tail = <floating>2 * _gauss(x) * p * r
    return tail if x < 0 else <floating>1 - tail
