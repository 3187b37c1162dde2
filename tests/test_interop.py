"""Arrays of other libraries as arguments, and results written to memory that the caller has."""

import array

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from windows import channels_last

from fastcnn import functional as F


def normal(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


# --- objects that share memory --------------------------------------------------------------------------------------


class Interface:
    """Only `__array_interface__`."""

    def __init__(self, data):
        self.data = data
        self.__array_interface__ = data.__array_interface__


class Pack:
    """Only DLPack, on a device of the given type."""

    def __init__(self, data, device=1):
        self.data, self.device = data, device

    def __dlpack__(self, **kwargs):
        return self.data.__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return self.device, 0


def tensor(data):
    return pytest.importorskip("torch").from_numpy(data)


def jax_array(data):
    jax = pytest.importorskip("jax")
    with jax.enable_x64(True):
        return jax.numpy.asarray(np.ascontiguousarray(data))


def arrow_tensor(data):
    return pytest.importorskip("pyarrow").Tensor.from_numpy(data)


SHARED = [Interface, memoryview, Pack, tensor, jax_array, arrow_tensor]


@pytest.mark.parametrize("wrap", SHARED)
def test_shared_memory_in_every_argument(wrap):
    """One function of each module, by each of its arrays; results are NumPy's."""
    x, weight, bias = normal(2, 4, 6, 6), normal(3, 4, 3, 3), normal(3)
    output = F.conv2d(wrap(x), wrap(weight), wrap(bias))
    assert type(output) is np.ndarray
    assert_array_equal(output, F.conv2d(x, weight, bias))
    grads = F.conv2d_backward(wrap(output), wrap(x), wrap(weight))
    for got, want in zip(grads, F.conv2d_backward(output, x, weight), strict=True):
        assert_array_equal(got, want)
    pooled, taps = F.conv2d_max_pool(wrap(x), wrap(weight), wrap(bias), pool=(2,))
    assert_array_equal(pooled, F.conv2d_max_pool(x, weight, bias, pool=(2,))[0])
    for got, want in zip(F.conv2d_max_pool_backward(wrap(pooled), wrap(taps), wrap(x), wrap(weight), pool=(2,)),
                         F.conv2d_max_pool_backward(pooled, taps, x, weight, pool=(2,)), strict=True):  # fmt: skip
        assert_array_equal(got, want)
    mean, scale, shift = normal(3, 4)
    assert_array_equal(F.norm_conv2d(wrap(x), wrap(mean), scale, wrap(shift), wrap(weight), wrap(bias)),
                       F.norm_conv2d(x, mean, scale, shift, weight, bias))  # fmt: skip
    assert_array_equal(F.im2col(wrap(x), 3), F.im2col(x, 3))
    assert_array_equal(F.linear(wrap(bias), wrap(normal(2, 3))), F.linear(bias, normal(2, 3)))
    pooled, indices = F.max_pool2d(x, 2, return_indices=True)
    assert_array_equal(F.max_pool2d_backward(wrap(pooled), wrap(indices), x.shape),
                       F.max_pool2d_backward(pooled, indices, x.shape))  # fmt: skip
    assert_array_equal(F.max_unpool2d(pooled, wrap(indices), 2), F.max_unpool2d(pooled, indices, 2))
    assert_array_equal(F.max_unpool2d_backward(x, wrap(indices)), F.max_unpool2d_backward(x, indices))
    pooled, taps = F.max_pool2d_taps(x, 2)
    assert_array_equal(F.max_pool2d_taps_backward(pooled, wrap(taps), x.shape, 2),
                       F.max_pool2d_taps_backward(pooled, taps, x.shape, 2))  # fmt: skip
    assert_array_equal(F.avg_pool2d(wrap(x), 2), F.avg_pool2d(x, 2))
    assert_array_equal(F.relu_backward(wrap(x), wrap(x)), F.relu_backward(x, x))
    output, mask = F.dropout(x, 0.5, return_mask=True)
    assert_array_equal(F.dropout_backward(wrap(x), wrap(mask)), F.dropout_backward(x, mask))
    scores, target = normal(5, 3), np.array([0, 2, 1, 1, 0])
    assert F.cross_entropy(wrap(scores), wrap(target))[0] == F.cross_entropy(scores, target)[0]
    assert F.mse_loss(wrap(x), wrap(x))[0] == 0
    picked = np.array([1, 0])
    assert_array_equal(F.image_batch(wrap(x), wrap(picked)), F.image_batch(x, picked))


def test_arrays_of_the_standard_library():
    assert_array_equal(F.relu(array.array("f", [-1, 2])), np.array([0, 2], np.float32))
    assert_array_equal(F.sigmoid(memoryview(np.zeros((2, 3)))[::2]), np.full((1, 3), 0.5))


@pytest.mark.parametrize("wrap", [Interface, memoryview, Pack, tensor])
def test_shared_memory_is_written_in_place(wrap):
    """What a function updates is the caller's memory, which no copy would reach."""
    running_mean, running_var = np.zeros(3, np.float32), np.ones(3, np.float32)
    F.batch_norm(normal(9, 3), wrap(running_mean), wrap(running_var), training=True)
    assert running_mean.any()
    assert (running_var != 1).any()
    param, grad = np.ones(4), np.full(4, 2.0)
    F.sgd_update(wrap(param), wrap(grad), None, lr=0.5)
    assert_array_equal(param, np.zeros(4))
    F.adam_update(wrap(param), wrap(grad), wrap(np.zeros(4)), wrap(np.zeros(4)), 1, lr=0.5)
    assert param.any()
    F.clip_grad_norm(wrap(grad), 1.0)
    assert grad[0] < 1


@pytest.mark.parametrize("wrap", [Interface, memoryview, Pack, tensor])
def test_memory_order_passes_through(wrap):
    x, weight = channels_last(normal(2, 3, 5, 7)), normal(4, 3, 3, 3)
    assert F.conv2d(wrap(x), weight).transpose(0, 2, 3, 1).flags.c_contiguous
    view = x[:, ::2, 1:]
    assert_array_equal(F.relu(wrap(view)), F.relu(view))


class Unshared:
    """A tensor whose memory cannot be handed out."""

    def __dlpack_device__(self):
        return 1, 0

    def __dlpack__(self, **kwargs):
        raise BufferError("layout is sparse")


class WithGradient(Pack):
    requires_grad = True


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1.0], "input: expected a NumPy array of float32 or float64, got list"),
        (1.0, "input: expected a NumPy array of float32 or float64, got float"),
        (b"abcd", "input: expected an array of float32 or float64, got uint8"),
        (array.array("i", [1]), "input: expected an array of float32 or float64, got int32"),
        (Interface(np.arange(3)), "input: expected an array of float32 or float64, got int64"),
        (WithGradient(np.ones(3)), r"input: expected a tensor without gradient, as detach\(\) returns it, got WithGra"),
        (Pack(np.ones(3), 2), "input: expected an array in the CPU's memory, got Pack on a device of DLPack's type 2"),
        (Unshared(), "input: expected a NumPy array .*, got Unshared that NumPy cannot share: layout is sparse"),
    ],
)
def test_objects_that_are_refused(value, message):
    with pytest.raises(TypeError, match=message):
        F.relu(value)


def test_refused_arguments_that_are_not_floats():
    x, ones = normal(1, 1, 2, 2), np.ones((1, 1, 1, 1), np.float32)
    with pytest.raises(TypeError, match="target: expected an array of integers, got list"):
        F.cross_entropy(normal(1, 2), [0])
    with pytest.raises(TypeError, match="indices: expected a NumPy array of int64, got list"):
        F.max_pool2d_backward(ones, [0], x.shape)
    with pytest.raises(TypeError, match="indices: expected a NumPy array of int64, got list"):
        F.max_unpool2d_backward(ones, [0])
    with pytest.raises(TypeError, match="mask: expected an array of uint8, or None, got list"):
        F.dropout_backward(ones, [0])
    with pytest.raises(TypeError, match="images: expected a NumPy array of uint8, float32 or float64, got list"):
        F.image_batch([0], np.array([0]))
    with pytest.raises(ValueError, match="running_mean: expected a writable array when training, got a read-only one"):
        F.batch_norm(normal(4, 1), memoryview(bytes(4)).cast("f"), np.ones(1, np.float32), training=True)


def test_tensors_that_are_refused():
    torch = pytest.importorskip("torch")
    weight = normal(1, 1, 1, 1)
    for value, message in [
        (torch.ones(1, 1, 2, 2, requires_grad=True), "got Tensor that requires grad"),
        (torch.ones(1, 1, 2, 2, device="meta"), "got Tensor that NumPy cannot share"),
        (torch.ones(1, 1, 2, 2, dtype=torch.bfloat16), "got Tensor that NumPy cannot share"),
        (torch.ones(1, 1, 2, 2).to_sparse(), "got Tensor that NumPy cannot share"),
        (torch.ones(1, 1, 2, 2, dtype=torch.float16), "expected an array of float32 or float64, got float16"),
    ]:
        with pytest.raises(TypeError, match=f"input: .*{message}"):
            F.conv2d(value, weight)


# --- out ------------------------------------------------------------------------------------------------------------

X = normal(2, 4, 6, 9)
V = np.ones(4, np.float32)
WITH_OUT = {
    "conv1d": lambda x, **out: F.conv1d(x[:, :, 0], normal(3, 4, 3), normal(3), padding=1, **out),
    "conv2d": lambda x, **out: F.conv2d(x, normal(3, 4, 3, 3), normal(3), stride=2, **out),
    "conv2d unbatched": lambda x, **out: F.conv2d(x[0], normal(3, 4, 3, 3), **out),
    "max_pool1d": lambda x, **out: F.max_pool1d(x[:, :, 0], 3, **out),
    "max_pool2d": lambda x, **out: F.max_pool2d(x, 2, **out),
    "max_pool2d unbatched": lambda x, **out: F.max_pool2d(x[1], 2, **out),
    "avg_pool1d": lambda x, **out: F.avg_pool1d(x[:, :, 0], 3, **out),
    "avg_pool2d": lambda x, **out: F.avg_pool2d(x, (2, 3), **out),
    "linear": lambda x, **out: F.linear(x, normal(5, 9), normal(5), **out),
    "linear of a vector": lambda x, **out: F.linear(x[0, 0, 0], normal(5, 9), **out),
    "batch_norm": lambda x, **out: F.batch_norm(x, V, V, V, V, **out),
    "batch_norm in training": lambda x, **out: F.batch_norm(x, None, None, training=True, **out),
    "batch_norm of vectors": lambda x, **out: F.batch_norm(x[:, :, 0, 0], V, V, **out),
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "sigmoid": F.sigmoid,
    "tanh": F.tanh,
    "gelu": F.gelu,
    "silu": F.silu,
}


@pytest.mark.parametrize("order", ["NCHW", "NHWC"])
@pytest.mark.parametrize("name", WITH_OUT)
def test_out(name, order):
    function = WITH_OUT[name]
    x = channels_last(X) if order == "NHWC" else X
    expected = function(x)
    out = np.full_like(expected, np.nan)  # keeps the memory order
    assert function(x, out=out) is out
    assert_array_equal(out, expected)
    nothing = x[:0] if "unbatched" not in name and "vector" not in name and "training" not in name else None
    if nothing is not None:
        out = function(nothing)
        assert function(nothing, out=out) is out


def test_out_with_indices():
    pooled, indices = F.max_pool2d(X, 2, return_indices=True)
    out = np.empty_like(pooled)
    result = F.max_pool2d(X, 2, return_indices=True, out=out)
    assert result[0] is out
    assert_array_equal(out, pooled)
    assert_array_equal(result[1], indices)
    _, mean, invstd = F.batch_norm(X, None, None, training=True, return_saved=True)
    result = F.batch_norm(X, None, None, training=True, return_saved=True, out=np.empty_like(X))
    assert_array_equal(result[1], mean)
    assert_array_equal(result[2], invstd)


@pytest.mark.parametrize("name", WITH_OUT)
def test_wrong_out(name):
    function = WITH_OUT[name]
    right = function(X)
    read_only = np.empty_like(right)
    read_only.setflags(write=False)
    gaps = np.empty((*right.shape, 2), np.float32)[..., 0]
    for out, error, message in [
        (right.tolist(), TypeError, "out: expected a NumPy array of float32, got list"),
        (right.astype(np.float64), TypeError, "out: expected an array of float32, got float64"),
        (right.astype(">f4"), TypeError, "out: expected an array of float32, got >f4"),
        (right[..., :-1], ValueError, r"out: expected shape \("),
        (read_only, ValueError, "out: expected a writable, aligned array"),
        (gaps, ValueError, "out: expected .*ontiguous memory"),
    ]:
        with pytest.raises(error, match=message):
            function(X, out=out)


@pytest.mark.parametrize("name", ["conv2d", "max_pool2d", "avg_pool2d", "batch_norm"])
def test_out_in_the_other_order(name):
    function = WITH_OUT[name]
    out = channels_last(function(X))
    with pytest.raises(ValueError, match="out: expected"):
        function(X, out=out)


@pytest.mark.parametrize("wrap", [Interface, memoryview, Pack])
def test_what_shares_memory_is_cut_into_the_same_parts(wrap):
    x, weight, column = normal(24, 32, 32, 32, dtype=np.float32), normal(32, 32, 3, 3, dtype=np.float32), np.ones(32)
    column = column.astype(np.float32)
    dy, taps = F.conv2d_max_pool(x, weight, pool=(2, 1))
    expected = F.conv2d_max_pool_backward(dy, taps, x, weight, pool=(2, 1))
    for got, want in zip(F.conv2d_max_pool_backward(dy, taps, wrap(x), weight, pool=(2, 1)), expected, strict=True):
        assert_array_equal(got, want)
    dy = F.conv2d(x, weight)
    expected = F.norm_conv2d_backward(dy, x, column, column, column, weight)
    for got, want in zip(F.norm_conv2d_backward(dy, wrap(x), column, column, column, weight), expected, strict=True):
        assert_array_equal(got, want)


@pytest.mark.parametrize("wrap", [Interface, memoryview, Pack])
def test_out_may_not_overlap_what_shares_memory(wrap):
    x, weight = normal(2, 3, 8, 8), normal(4, 3, 3, 3)
    dy, taps = F.conv2d_max_pool(x, weight, pool=(2,))
    out = dy.reshape(-1)[: weight.size // 2].reshape(2, 3, 3, 3)
    dy, taps = dy.reshape(4, 2, 3, 3)[:2], taps.reshape(4, 2, 3, 3)[:2]
    with pytest.raises(ValueError, match="out: expected memory apart from grad_output"):
        F.conv2d_max_pool_backward(wrap(dy), wrap(taps), x, weight[:2], pool=(2,), out=(None, out, None))


def test_out_may_not_overlap():
    buffer = normal(600)
    x = buffer[:144].reshape(1, 4, 6, 6)
    weight = buffer[200:236].reshape(1, 4, 3, 3)
    before = buffer.copy()
    for out, name in [(buffer[140:156], "input"), (buffer[230:246], "weight")]:
        with pytest.raises(ValueError, match=f"out: expected memory apart from {name}, got an array that overlaps it"):
            F.conv2d(x, weight, out=out.reshape(1, 1, 4, 4))
    with pytest.raises(ValueError, match="out: expected memory apart from bias"):
        F.linear(buffer[:6], buffer[100:136].reshape(6, 6), buffer[200:206], out=buffer[204:210])
    with pytest.raises(ValueError, match="out: expected memory apart from input"):
        F.max_pool2d(x, 1, out=x)
    with pytest.raises(ValueError, match="out: expected memory apart from running_var"):
        F.batch_norm(normal(2, 2), buffer[:2], buffer[2:4], out=buffer[2:6].reshape(2, 2))
    assert_array_equal(buffer, before)


def test_element_wise_in_place():
    for name, function in WITH_OUT.items():
        if function not in (F.relu, F.leaky_relu, F.sigmoid, F.tanh, F.gelu, F.silu):
            continue
        for x in (X.copy(), channels_last(X)):
            expected = function(x)
            assert function(x, out=x) is x, name
            assert_array_equal(x, expected)
    line = np.linspace(-1, 1, 10)
    with pytest.raises(ValueError, match="out: expected memory apart from input"):
        F.relu(line[:-1], out=line[1:])
    square = np.linspace(-1, 1, 9).reshape(3, 3)
    with pytest.raises(ValueError, match="out: expected memory apart from input"):
        F.relu(square.T, out=square)
    out = np.empty((3, 3))
    assert_array_equal(F.relu(square.T, out=out), np.maximum(square.T, 0))  # of another order
