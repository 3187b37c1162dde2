"""Calls that are remembered: as right, and as strict, as calls that are not."""

import gc
import sys
import threading
import weakref

import numpy as np
import pytest

from fastcnn import functional as F
from fastcnn import reference
from fastcnn.functional import activation, conv
from fastcnn.functional._calls import Call, remembered
from fastcnn.functional.linear import _linear

REMEMBERED = {
    f"{module.__name__}.{name}": value
    for module in list(sys.modules.values())
    if getattr(module, "__name__", "").startswith("fastcnn.functional.")
    for name, value in vars(module).items()
    if isinstance(value, remembered)
}


def normal(*shape, dtype=np.float32):
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def channels_last(array):
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


@pytest.fixture(autouse=True)
def _nothing_remembered():
    for function in REMEMBERED.values():
        function.forget()


def long_way(function, *arguments):
    """What a remembered function gives when it remembers nothing."""
    function.forget()
    return function(*arguments)


def test_the_second_call_is_remembered():
    x, weight = normal(2, 3, 6, 6), normal(4, 3, 3, 3)
    for times in range(3):
        assert len(conv._forward) == (times > 0)
        F.conv2d(x, weight, None, 1, 1)


@pytest.mark.parametrize("order", [np.ascontiguousarray, channels_last])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_other_arrays_of_the_same_signature(order, dtype):
    x, weight, bias = order(normal(2, 3, 6, 6, dtype=dtype)), normal(4, 3, 3, 3, dtype=dtype), normal(4, dtype=dtype)
    F.conv2d(x, weight, bias, 1, 1)
    again = F.conv2d(order(x + 1), weight * 2, bias - 1, 1, 1)
    assert len(conv._forward) == 1
    expected = long_way(conv._forward, order(x + 1), weight * 2, bias - 1, 1, 1, 1, 1, 2, None)
    assert again.strides == expected.strides
    assert np.array_equal(again, expected)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"stride": True}, TypeError, "stride"),
        ({"stride": 1.0}, TypeError, "stride"),
        ({"stride": (1, True)}, TypeError, "stride"),
        ({"stride": 0}, ValueError, "stride"),
        ({"padding": "sane"}, ValueError, "padding"),
        ({"padding": 2**60}, ValueError, "fit in memory"),
        ({"padding": -1}, ValueError, "padding"),
        ({"groups": 2}, ValueError, "input"),
        ({"bias": normal(5)}, ValueError, "bias"),
        ({"bias": normal(4, dtype=np.float64)}, TypeError, "bias"),
        ({"input": normal(2, 4, 6, 6)}, ValueError, "input"),
        ({"input": normal(2, 3, 6, 6).astype(int)}, TypeError, "input"),
        ({"input": normal(2, 3, 6, 6).tolist()}, TypeError, "input"),
        ({"input": normal(3, 36)}, ValueError, "input"),
    ],
)
def test_wrong_calls_after_right_ones(change, error, match):
    right = {"input": normal(2, 3, 6, 6), "weight": normal(4, 3, 3, 3), "bias": normal(4), "stride": 1, "padding": 1}
    for _ in range(2):
        F.conv2d(**right)
    for _ in range(2):
        with pytest.raises(error, match=match):
            F.conv2d(**(right | change))
    assert F.conv2d(**right).shape == (2, 4, 6, 6)


def test_options_tell_calls_apart():
    x, weight = normal(2, 4, 9, 9), normal(4, 1, 3, 3)
    calls = [(stride, padding, dilation) for stride in (1, 2, (1, 2)) for padding in (0, (0, 1), "same", "valid")
             for dilation in (1, (2, 1)) if stride == 1 or padding != "same"]  # fmt: skip
    first = [F.conv2d(x, weight, None, *call, 4) for call in calls]
    second = [F.conv2d(x, weight, None, *call, 4) for call in calls]
    assert len(conv._forward) == len(calls)
    for a, b, call in zip(first, second, calls, strict=True):
        assert np.array_equal(a, b)
        assert np.array_equal(a, long_way(conv._forward, x, weight, None, *call, 4, 2, None))


def test_texts_tell_calls_apart():
    checked = []

    @remembered
    def function(x, text):
        checked.append(text)
        return Call("activation", (x,), ((x.shape, (0,), x.dtype),), integers=(0, x.size))

    texts = ["", "a", "b", "abcdefgh", "abcdefgi", "abcdefgha", "abcdefgh\0", "x" * 32, "x" * 31, "\u20ac"]
    for text in texts * 3:
        function(normal(4), text)
    assert checked == texts
    for text in ("x" * 33, "\ud800"):
        for _ in range(2):
            function(normal(4), text)
    assert checked[len(texts) :] == ["x" * 33] * 2 + ["\ud800"] * 2


def test_floats_are_not_remembered():
    x = normal(10)
    for slope in (0.5, 0.25, 0.125):
        assert np.array_equal(F.leaky_relu(x, slope), np.where(x > 0, x, np.float32(slope) * x))
    assert len(activation._forward) == 1


@pytest.mark.parametrize(
    "unusual",
    [
        lambda x: x[:, ::-1],
        lambda x: x.astype(">f4"),
        lambda x: np.broadcast_to(x[:1], x.shape),
        lambda x: np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape),
        lambda x: x.view(np.recarray),
    ],
    ids=["backwards", "byte order", "broadcast", "unaligned", "subclass"],
)
def test_what_needs_a_copy_is_not_remembered(unusual):
    weight = normal(3, 8)
    x = unusual(normal(5, 8))
    for _ in range(3):
        assert np.allclose(F.linear(x, weight), np.asarray(x, np.float32) @ weight.T, atol=1e-5)
    assert len(_linear) == 0


def test_read_only_arrays():
    x = normal(5, 8)
    expected = F.relu(x, out=np.empty_like(x))
    x.flags.writeable = False
    for _ in range(2):
        assert np.array_equal(F.relu(x), expected)
    for _ in range(2):
        with pytest.raises(ValueError, match="out: expected a writable"):
            F.relu(expected, out=x)


def test_the_same_array_twice_then_two():
    y, dy = np.abs(normal(5, 8)), normal(5, 8)
    assert np.array_equal(F.relu_backward(y, y), y)
    assert np.array_equal(F.relu_backward(dy, y), dy)
    assert np.array_equal(F.relu_backward(y, y), y)


def test_out_is_filled_and_returned():
    x, weight = channels_last(normal(2, 3, 6, 6)), normal(4, 3, 3, 3)
    expected = F.conv2d(x, weight)
    for _ in range(3):
        out = np.full_like(expected, 7)
        assert F.conv2d(x, weight, out=out) is out
        assert np.array_equal(out, expected)


def test_out_that_overlaps_after_one_that_does_not():
    memory = normal(3, 5, 8)
    weight, expected = normal(8, 8), F.linear(memory[0], normal(8, 8))
    for _ in range(2):
        assert np.array_equal(F.linear(memory[0], weight, out=memory[1]), expected)
        with pytest.raises(ValueError, match="out: expected memory apart from input"):
            F.linear(memory[0], weight, out=memory[0])
        with pytest.raises(ValueError, match="out: expected memory apart from input"):
            F.linear(memory[0], weight, out=memory.reshape(-1)[4:44].reshape(5, 8))


def test_in_place():
    for _ in range(3):
        x = normal(5, 8)
        expected = np.maximum(x, 0)
        assert F.relu(x, out=x) is x
        assert np.array_equal(x, expected)


def test_gradients_go_where_they_are_asked_to():
    x, weight, dy = normal(5, 8), normal(3, 8), normal(5, 3)
    expected = F.linear_backward(dy, x, weight)
    for _ in range(3):
        out = (None, np.full_like(weight, 7), np.full(3, 7, np.float32))
        grads = F.linear_backward(dy, x, weight, out=out)
        assert grads[1] is out[1]
        assert grads[2] is out[2]
        for grad, wanted in zip(grads, expected, strict=True):
            assert np.array_equal(grad, wanted)


@pytest.mark.parametrize(
    ("needs", "out", "match"),
    [
        ((True,) * 3, (None, None), "out: expected three arrays or None"),
        ((True,) * 3, normal(3, 8), "out: expected three arrays or None"),
        ((True, False, True), (None, normal(3, 8), None), "out: expected None for a gradient that is not needed"),
        ((True,) * 3, (None, normal(8, 3), None), r"out: expected shape \(3, 8\)"),
        ((True,) * 3, (None, normal(8, 3).T, None), "out: expected contiguous memory"),
        ((True,) * 3, (None, normal(3, 8, dtype=np.float64), None), "out: expected an array of float32"),
        ((True,) * 3, (None, normal(3, 8).tolist(), None), "out: expected a NumPy array of float32"),
    ],
)
def test_wrong_places_for_gradients(needs, out, match):
    for _ in range(2):
        with pytest.raises((TypeError, ValueError), match=match):
            F.linear_backward(normal(5, 3), normal(5, 8), normal(3, 8), needs=needs, out=out)


def test_gradients_may_not_overlap():
    x, weight, dy = normal(5, 8), normal(3, 8), normal(5, 3)
    memory = np.empty((2, 3, 8), np.float32)
    F.linear_backward(dy, x, weight, out=(None, memory[0], memory[1, 0, :3]))
    for _ in range(2):
        with pytest.raises(ValueError, match=r"out: expected memory apart from out\[2\]"):
            F.linear_backward(dy, x, weight, out=(None, memory[0], memory[0, 0, :3]))
        with pytest.raises(ValueError, match="out: expected memory apart from weight"):
            F.linear_backward(dy, x, weight, out=(None, weight, None))


@pytest.mark.parametrize("needs", [(True, False, True), (False, False, True), (False, False, False)])
def test_gradient_of_the_bias_alone(needs):
    x, weight, dy = normal(2, 3, 6, 6), normal(4, 3, 3, 3), normal(2, 4, 4, 4)
    expected = F.conv2d_backward(dy, x, weight)
    for _ in range(2):
        for grad, wanted, need in zip(F.conv2d_backward(dy, x, weight, needs=needs), expected, needs, strict=True):
            assert np.array_equal(grad, wanted) if need else grad is None


def test_empty_batches():
    full, weight = normal(2, 3, 6, 6), normal(4, 3, 3, 3)
    for x in (full, full[:0], full, full[:0]):
        y = F.conv2d(x, weight)
        assert y.shape == (len(x), 4, 4, 4)
        dx, dw, db = F.conv2d_backward(y, x, weight)
        assert dx.shape == x.shape
        assert dw.any() == db.any() == bool(len(x))


def test_no_array_is_kept():
    x, weight, bias = normal(4, 80), normal(50, 80), normal(50)
    results = [F.linear(x, weight, bias), F.relu(x), *F.linear_backward(normal(4, 50), x, weight)]
    counts = [sys.getrefcount(array) for array in (x, weight, bias)]
    for _ in range(5):
        F.linear(x, weight, bias)
        F.linear_backward(results[0], x, weight)
    assert [sys.getrefcount(array) for array in (x, weight, bias)] == counts
    alive = [weakref.ref(array) for array in (x, weight, bias, *results)]
    del x, weight, bias, results
    gc.collect()
    assert not any(reference() is not None for reference in alive)


def test_memory_of_results_is_their_own():
    x = normal(4, 3000)
    first = F.relu(x)
    kept = first.copy()
    second = F.relu(-x)
    assert not np.shares_memory(first, second)
    assert np.array_equal(first, kept)


def test_the_number_of_calls_is_bounded():
    x = normal(5000)
    for size in range(1, 5000):
        F.relu(x[:size])
    assert 0 < len(activation._forward) <= 4096


def test_the_number_of_threads_may_change():
    import fastcnn

    x, weight = channels_last(normal(4, 16, 20, 20)), normal(32, 16, 3, 3)
    before, results = fastcnn.get_num_threads(), []
    try:
        for count in (1, 2, 7, 1):
            fastcnn.set_num_threads(count)
            results.append(F.conv2d(x, weight))
            results.append(F.conv2d_backward(results[0], x, weight)[1])
    finally:
        fastcnn.set_num_threads(before)
    for result in results[2:]:
        assert any(np.array_equal(result, first) for first in results[:2])


def test_many_threads_call_at_once():
    weight = normal(8, 8, 3, 3)
    inputs = [channels_last(normal(2, 8, size, 8)) for size in range(3, 23)]
    expected = [(F.conv2d(x, weight), F.conv2d_backward(F.conv2d(x, weight), x, weight)) for x in inputs]
    wrong = []

    def work(number):
        for i in np.random.default_rng(number).integers(0, len(inputs), 300):
            if number == 0 and i == 0:
                conv._forward.forget()
            y = F.conv2d(inputs[i], weight)
            grads = F.conv2d_backward(y, inputs[i], weight)
            same = [np.array_equal(y, expected[i][0])]
            same += [np.array_equal(a, b) for a, b in zip(grads, expected[i][1], strict=True)]
            if not all(same):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("size", [(3, 16, 5, 5), (2, 37, 3, 7), (3, 2, 9, 9), (2, 20, 1, 3), (1, 4, 2, 2), (2, 35, 64)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_flatten_of_blocks_and_what_is_left_over(size, dtype, threads):
    values = np.arange(np.prod(size), dtype=dtype).reshape(size)
    x = np.moveaxis(np.ascontiguousarray(np.moveaxis(values, 1, -1)), -1, 1)
    for count in (1, 3):
        threads(count)
        rows = F.flatten(x, 1)
        assert np.array_equal(rows, values.reshape(size[0], -1))
        back = F.flatten_backward(rows, size, 1, channels_last=True)
        assert np.array_equal(back, values)
        assert back.strides == x.strides


@pytest.mark.parametrize("order", [np.ascontiguousarray, channels_last])
@pytest.mark.parametrize("dims", [(1, -1), (0, -1), (2, 3), (-3, -2)])
def test_flatten_against_numpy(order, dims):
    for x in (normal(2, 3, 4, 5), normal(2, 3, 4, 5) + 1):
        y = F.flatten(order(x), *dims)
        assert np.array_equal(y, reference.flatten(x, *dims))
        assert y.flags.c_contiguous
        for last in (False, True):
            grad = F.flatten_backward(y, x.shape, *dims, channels_last=last)
            expected = reference.flatten_backward(y, x.shape, *dims, channels_last=last)
            assert np.array_equal(grad, expected)
            assert grad.strides == expected.strides


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: F.flatten([1.0]), TypeError, "input: expected a NumPy array"),
        (lambda: F.flatten(normal(2, 3), 1.0), TypeError, "start_dim: expected an int"),
        (lambda: F.flatten(normal(2, 3), 0, 2), ValueError, "input: expected axes 0 to 2, in that order"),
        (lambda: F.flatten_backward(normal(6), 6), ValueError, "input_shape: expected a tuple of"),
        (lambda: F.flatten_backward(normal(5), (2, 3)), ValueError, r"grad_output: expected shape \(6,\)"),
        (lambda: F.flatten_backward(normal(6), (2, 3), channels_last=1), TypeError, "channels_last: expected a bool"),
        (lambda: F.flatten_backward(normal(6).astype(int), (2, 3)), TypeError, "grad_output: expected an array of"),
    ],
)
def test_wrong_flatten(call, error, match):
    with pytest.raises(error, match=match):
        call()


# --- every function: the second call of a signature gives what it gives when nothing is remembered ------------------


def images(generator, *shape):
    return channels_last(generator.standard_normal(shape).astype(np.float32))


def pooled(g):
    x = images(g, 2, 4, 6, 6)
    _, taps = F.max_pool2d_taps(x, 2)
    return images(g, 2, 4, 3, 3), taps, x.shape


def indexed(g):
    y, indices = F.max_pool2d(images(g, 2, 4, 6, 6), 3, 2, return_indices=True)
    return y, indices


def vectors(g, count, size=4):
    return [g.uniform(0.5, 1.5, size).astype(np.float32) for _ in range(count)]


def trained(g, given):
    return *F.batch_norm_factors(images(g, 2, 4, 6, 6), *given, True, g.uniform()), *given


CALLS = {
    "relu": lambda g: F.relu(images(g, 2, 4, 6, 6)),
    "relu in place": lambda g: (lambda x: F.relu(x, out=x))(images(g, 2, 4, 6, 6)),
    "gelu_backward": lambda g: F.gelu_backward(images(g, 2, 4, 6, 6), images(g, 2, 4, 6, 6)),
    "add": lambda g: F.add(images(g, 2, 4, 6, 6), images(g, 2, 4, 6, 6)),
    "add in place": lambda g: (lambda x: F.add(x, images(g, 2, 4, 6, 6), out=x))(images(g, 2, 4, 6, 6)),
    "add to itself": lambda g: (lambda x: F.add(x, x))(images(g, 2, 4, 6, 6)),
    "dropout": lambda g: F.dropout(images(g, 2, 4, 6, 6), 0.3, rng=g, return_mask=True),
    "dropout_backward": lambda g: F.dropout_backward(g.standard_normal((5, 4)), g.integers(0, 2, (5, 4), np.uint8)),
    "im2col": lambda g: F.im2col(images(g, 2, 4, 6, 6), 3, padding=1),
    "col2im": lambda g: F.col2im(g.standard_normal((2, 36, 16)), (6, 6), 3),
    "conv1d": lambda g: F.conv1d(g.standard_normal((3, 9)), g.standard_normal((2, 3, 3)), padding="same"),
    "conv2d_backward": lambda g: F.conv2d_backward(
        images(g, 2, 4, 4, 4), images(g, 2, 2, 6, 6), g.standard_normal((4, 2, 3, 3)).astype(np.float32)
    ),
    "linear_backward": lambda g: F.linear_backward(
        g.standard_normal((2, 3, 4)), g.standard_normal((2, 3, 5)), g.standard_normal((4, 5))
    ),
    "linear_backward behind relu": lambda g: F.linear_backward(
        g.standard_normal((3, 4)), g.standard_normal((3, 5)), g.standard_normal((4, 5)), relu=g.standard_normal((3, 4))
    ),
    "conv2d_max_pool": lambda g: F.conv2d_max_pool(
        images(g, 2, 4, 6, 6), normal(4, 4, 3, 3), vectors(g, 1)[0], 1, 1, pool=(2,), relu=True
    ),
    "conv2d_max_pool_backward": lambda g: (lambda x, w: F.conv2d_max_pool_backward(
        *F.conv2d_max_pool(x, w, pool=(2,), relu=True), x, w, pool=(2,), relu=True
    ))(images(g, 2, 4, 6, 6), g.standard_normal((4, 4, 3, 3)).astype(np.float32)),
    "softmax": lambda g: F.softmax(g.standard_normal((5, 7)), 0),
    "log_softmax_backward": lambda g: F.log_softmax_backward(g.standard_normal((5, 7)), g.standard_normal((5, 7))),
    "cross_entropy": lambda g: F.cross_entropy(
        images(g, 2, 4, 6, 6), g.integers(0, 4, (2, 6, 6)), vectors(g, 1)[0], label_smoothing=g.uniform()
    ),
    "cross_entropy each": lambda g: F.cross_entropy(g.standard_normal((5, 7)), g.integers(0, 7, 5), reduction="none"),
    "mse_loss": lambda g: F.mse_loss(images(g, 2, 4, 6, 6), images(g, 2, 4, 6, 6)),
    "norm_conv2d": lambda g: F.norm_conv2d(images(g, 2, 4, 6, 6), *vectors(g, 3), normal(4, 4, 3, 3), *vectors(g, 1)),
    "norm_conv2d_backward": lambda g: F.norm_conv2d_backward(
        images(g, 2, 4, 4, 4), images(g, 2, 4, 6, 6), *vectors(g, 3), normal(4, 4, 3, 3), relu=True,
        needs=(True, True, False)),
    "conv2d_norm": lambda g: F.conv2d_norm(
        images(g, 2, 4, 6, 6), normal(4, 4, 3, 3), *vectors(g, 4), 1, 1,
        residual=images(g, 2, 4, 6, 6), relu=True),
    "batch_norm_factors": lambda g: trained(g, vectors(g, 4)),
    "batch_norm_factors of running": lambda g: F.batch_norm_factors(images(g, 2, 4, 6, 6), *vectors(g, 2)),
    "batch_norm_apply": lambda g: F.batch_norm_apply(
        images(g, 2, 4, 6, 6), *vectors(g, 3), residual=images(g, 2, 4, 6, 6), relu=True
    ),
    "batch_norm_apply of rows": lambda g: F.batch_norm_apply(np.stack(vectors(g, 5)), *vectors(g, 3)),
    "batch_norm_backward": lambda g: F.batch_norm_backward(
        images(g, 2, 4, 6, 6), images(g, 2, 4, 6, 6), *vectors(g, 3), relu=tuple(vectors(g, 2)), return_masked=True
    ),
    "batch_norm_backward in place": lambda g: (lambda x: F.batch_norm_backward(
        images(g, 2, 4, 6, 6), x, *vectors(g, 3), relu=images(g, 2, 4, 6, 6), out=x
    ))(images(g, 2, 4, 6, 6)),
    "batch_norm_backward without relu": lambda g: F.batch_norm_backward(
        images(g, 2, 4, 6, 6), images(g, 2, 4, 6, 6), None, *vectors(g, 2), False, return_masked=True
    ),
    "max_pool2d_taps": lambda g: F.max_pool2d_taps(images(g, 2, 4, 7, 7), 3, 2, 1, relu=True),
    "max_pool2d_taps_backward": lambda g: F.max_pool2d_taps_backward(*pooled(g), 2),
    "max_pool1d": lambda g: F.max_pool1d(g.standard_normal((4, 9)), 2, ceil_mode=True, return_indices=True),
    "max_pool2d_backward": lambda g: F.max_pool2d_backward(*indexed(g), (2, 4, 6, 6)),
    "max_unpool2d": lambda g: F.max_unpool2d(*indexed(g), 3, 2, output_size=(6, 6)),
    "max_unpool2d_backward": lambda g: F.max_unpool2d_backward(images(g, 2, 4, 6, 6), indexed(g)[1]),
    "avg_pool2d": lambda g: F.avg_pool2d(images(g, 2, 4, 7, 7), 3, 2, 1, count_include_pad=False),
    "avg_pool2d_backward": lambda g: F.avg_pool2d_backward(images(g, 2, 4, 3, 3), (2, 4, 6, 6), 2),
    "adaptive_avg_pool2d": lambda g: F.adaptive_avg_pool2d(images(g, 2, 4, 7, 7), (3, None)),
    "adaptive_avg_pool1d_backward": lambda g: F.adaptive_avg_pool1d_backward(g.standard_normal((2, 4, 3)), (2, 4, 7)),
    "clip_grad_norm": lambda g: (lambda x: (F.clip_grad_norm(x, g.uniform()), x))(g.standard_normal(50)),
    "sgd_update": lambda g: (lambda x, b: (F.sgd_update(x, g.standard_normal(50), b, g.uniform(), 0.9), x, b))(
        g.standard_normal(50), g.standard_normal(50)
    ),
    "adam_update": lambda g: (lambda *v: (F.adam_update(*v, int(g.integers(1, 9)), g.uniform()), *v))(
        *(np.abs(g.standard_normal(50)) for _ in range(4))
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_again_is_as_at_first(name):
    CALLS[name](np.random.default_rng(1))
    known = {name: len(function) for name, function in REMEMBERED.items()}
    again = CALLS[name](np.random.default_rng(2))
    assert {name: len(function) for name, function in REMEMBERED.items()} == known
    assert sum(known.values()) > 0
    for function in REMEMBERED.values():
        function.forget()
    expected = CALLS[name](np.random.default_rng(2))
    for a, b in zip(*(value if isinstance(value, tuple) else (value,) for value in (again, expected)), strict=True):
        if isinstance(a, np.ndarray):
            assert a.strides == b.strides
        assert np.array_equal(a, b)


def test_every_remembered_function_is_called_above():
    for call in (*CALLS.values(), lambda g: F.flatten_backward(F.flatten(images(g, 2, 4, 6, 6), 1), (2, 4, 6, 6), 1,
                                                               channels_last=True)):  # fmt: skip
        call(np.random.default_rng(0))
    F.linear(normal(5, 8), normal(3, 8))
    F.conv2d(normal(2, 3, 6, 6), normal(4, 3, 3, 3))
    F.softmax_backward(normal(5, 7), normal(5, 7))
    assert [name for name, function in REMEMBERED.items() if not len(function)] == []


def test_elements_that_a_kernel_refuses():
    x, target = normal(5, 7), np.arange(5)
    y, taps = F.max_pool2d_taps(normal(2, 4, 6, 6), 2)
    _, indices = F.max_pool2d(normal(2, 4, 6, 6), 2, return_indices=True)
    for _ in range(2):
        F.cross_entropy(x, target)
        with pytest.raises(ValueError, match="target: expected class numbers from 0 to 6"):
            F.cross_entropy(x, target + 3)
        F.max_pool2d_taps_backward(y, taps, (2, 4, 6, 6), 2)
        with pytest.raises(ValueError, match="taps: expected taps inside the input"):
            F.max_pool2d_taps_backward(y, taps + np.uint8(4), (2, 4, 6, 6), 2)
        F.max_pool2d_backward(y, indices, (2, 4, 6, 6))
        with pytest.raises(ValueError, match="indices: expected places in the plane, 0 to 35"):
            F.max_pool2d_backward(y, indices + 36, (2, 4, 6, 6))
        F.max_unpool2d_backward(normal(2, 4, 6, 6), indices)
        with pytest.raises(ValueError, match="indices: expected places in the plane, 0 to 35"):
            F.max_unpool2d_backward(normal(2, 4, 6, 6), -1 - indices)
