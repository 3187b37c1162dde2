"""Optimizers against torch's formulas written out in NumPy, the flat buffers, saved state, and schedules."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest

from fastcnn import nn, optim

SHAPES = [(3, 4), (5,), (2, 1, 3, 3), (1,), (33,)]


def parameters(dtype=np.float64) -> list[nn.Parameter]:
    rng = np.random.default_rng(0)
    return [nn.Parameter(rng.normal(size=shape).astype(dtype)) for shape in SHAPES]


def set_gradients(params: list[nn.Parameter], step: int) -> list[np.ndarray]:
    rng = np.random.default_rng(100 + step)
    for p in params:
        p.grad = rng.normal(size=p.shape).astype(p.dtype)
    return [p.grad.copy() for p in params]


# --- formulas, as torch's documentation gives them ------------------------------------------------------------------


def sgd_formula(values, grads, state, lr, momentum=0, dampening=0, weight_decay=0, nesterov=False):
    for i, g in enumerate(grads):
        g = g + weight_decay * values[i]
        if momentum:
            b = state.get(i)
            b = g.copy() if b is None else momentum * b + (1 - dampening) * g
            state[i] = b
            g = g + momentum * b if nesterov else b
        values[i] = values[i] - lr * g


def adam_formula(values, grads, state, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, decoupled=False):
    t = state["t"] = state.get("t", 0) + 1
    for i, g in enumerate(grads):
        if decoupled:
            values[i] = values[i] - lr * weight_decay * values[i]
        else:
            g = g + weight_decay * values[i]
        m, v = state.get(i, (0.0, 0.0))
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        state[i] = m, v
        m_hat, v_hat = m / (1 - betas[0] ** t), v / (1 - betas[1] ** t)
        values[i] = values[i] - lr * m_hat / (np.sqrt(v_hat) + eps)


def decoupled_formula(*args, **settings):
    adam_formula(*args, **{"weight_decay": 0.01, **settings}, decoupled=True)


CASES = [
    (optim.SGD, sgd_formula, {}),
    (optim.SGD, sgd_formula, {"weight_decay": 0.1}),
    (optim.SGD, sgd_formula, {"momentum": 0.9}),
    (optim.SGD, sgd_formula, {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
    (optim.SGD, sgd_formula, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    (optim.Adam, adam_formula, {}),
    (optim.Adam, adam_formula, {"betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}),
    (optim.AdamW, decoupled_formula, {}),
    (optim.AdamW, decoupled_formula, {"betas": (0.8, 0.95), "weight_decay": 0.2}),
]
IDS = [f"{case[0].__name__} {case[2]}" for case in CASES]


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-12), (np.float32, 2e-5)], ids=["float64", "float32"])
@pytest.mark.parametrize(("cls", "formula", "settings"), CASES, ids=IDS)
def test_formulas(cls, formula, settings, dtype, rtol):
    params = parameters(dtype)
    values = [p.data.astype(np.float64) for p in params]
    optimizer = cls(params, lr=0.05, **settings)
    state: dict = {}
    for step in range(6):
        grads = set_gradients(params, step)
        optimizer.step()
        formula(values, grads, state, lr=0.05, **settings)
    for p, value in zip(params, values, strict=True):
        np.testing.assert_allclose(p.data, value, rtol=rtol, atol=rtol)


def test_defaults_are_torchs():
    def settings(optimizer):
        return {name: value for name, value in optimizer.param_groups[0].items() if name != "params"}

    assert settings(optim.SGD(parameters())) == {
        "lr": 1e-3, "momentum": 0, "dampening": 0, "weight_decay": 0, "nesterov": False
    }  # fmt: skip
    adam = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0}
    assert settings(optim.Adam(parameters())) == adam
    assert settings(optim.AdamW(parameters())) == adam | {"weight_decay": 0.01}


def test_groups_have_their_own_settings():
    params = parameters()
    values = [p.data.copy() for p in params]
    optimizer = optim.SGD(
        [{"params": params[:2]}, {"params": params[2:], "lr": 0.5, "weight_decay": 0.1}], lr=0.1, momentum=0.5
    )
    states: list[dict] = [{}, {}]
    for step in range(3):
        grads = set_gradients(params, step)
        optimizer.step()
        first, second = values[:2], values[2:]
        sgd_formula(first, grads[:2], states[0], 0.1, 0.5)
        sgd_formula(second, grads[2:], states[1], 0.5, 0.5, weight_decay=0.1)
        values = first + second
    for p, value in zip(params, values, strict=True):
        np.testing.assert_allclose(p.data, value, rtol=1e-12)


def test_momentum_that_begins_later_starts_from_the_gradient():
    params = parameters()
    optimizer = optim.SGD(params, lr=0.1, dampening=0.5)
    set_gradients(params, 0)
    optimizer.step()
    optimizer.param_groups[0]["momentum"] = 0.9
    before = [p.data.copy() for p in params]
    grads = set_gradients(params, 1)
    optimizer.step()
    for p, value, grad in zip(params, before, grads, strict=True):
        np.testing.assert_allclose(p.data, value - 0.1 * grad, rtol=1e-12)


def test_lr_property():
    params = parameters()
    optimizer = optim.SGD([{"params": params[:1]}, {"params": params[1:], "lr": 0.5}], lr=0.1)
    assert optimizer.lr == 0.1
    optimizer.lr = 0.25
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]
    with pytest.raises(ValueError, match=r"^lr: expected a finite number of at least 0, got -1$"):
        optimizer.lr = -1
    assert optimizer.lr == 0.25


def test_parameters_may_be_a_generator():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    assert optimizer.param_groups[0]["params"] == list(model.parameters())


# --- the flat buffers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_parameters_become_views_of_one_aligned_buffer(dtype):
    params = parameters(dtype)
    values = [p.data.copy() for p in params]
    grads = set_gradients(params, 0)
    optimizer = optim.SGD([{"params": params[:2]}, {"params": params[2:]}], lr=0.1)
    for views, kept in (([p.data for p in params], values), ([p.grad for p in params], grads)):
        assert all(view.base is views[0].base for view in views)
        assert all(np.array_equal(view, value) for view, value in zip(views, kept, strict=True))
        starts = [view.ctypes.data for view in views]
        assert all(start % 64 == 0 for start in starts)
        assert starts == sorted(starts)
        for view, start, following in zip(views, starts, starts[1:], strict=False):
            assert 0 <= following - start - view.nbytes < 64
        assert all(view.flags.c_contiguous and view.flags.writeable for view in views)
    assert params[0].data.base is not params[0].grad.base
    assert len(optimizer.param_groups) == 2


@pytest.mark.parametrize(("cls", "formula", "settings"), CASES, ids=IDS)
def test_padding_stays_zero(cls, formula, settings):
    params = parameters(np.float32)
    optimizer = cls(params, lr=0.05, **settings)
    for step in range(3):
        set_gradients(params, step)
        optimizer.clip_grad_norm(1.0)
        optimizer.step()
    flats = [optimizer._data, optimizer._grad, *optimizer._arrays[0].values()]
    padding = np.ones(optimizer._data.size, bool)
    for place in optimizer._places:
        padding[place] = False
    assert padding.any()
    assert not any(flat[padding].any() for flat in flats)


def test_layers_add_into_the_flat_gradient():
    layer = nn.Linear(3, 2)
    optimizer = optim.SGD(layer.parameters(), lr=0.1)
    layer(np.ones((1, 3), np.float32))
    layer.backward(np.ones((1, 2), np.float32))
    assert np.shares_memory(layer.weight.grad, optimizer._grad)
    assert (layer.weight.grad == 1).all()
    optimizer.zero_grad()
    assert (layer.weight.grad == 0).all()


def test_a_parameter_without_a_backward_pass_stays():
    """Its gradient of the step before is gone, though zero_grad does not write to memory."""
    used, unused = nn.Parameter(np.ones(3)), nn.Parameter(np.ones(70))
    optimizer = optim.SGD([used, unused], lr=0.5)
    for parameter in (used, unused):
        parameter.accumulate(np.ones(parameter.shape))
    optimizer.step()
    optimizer.zero_grad()
    used.accumulate(np.ones(3))
    assert optimizer.clip_grad_norm(100.0) == math.sqrt(3)
    optimizer.step()
    assert (used.data == 0).all()
    assert (unused.data == 0.5).all()


def test_update_does_not_depend_on_the_layout():
    together, alone = parameters(np.float32), parameters(np.float32)
    optimizers = [optim.Adam(together, lr=0.1), *(optim.Adam([p], lr=0.1) for p in alone)]
    for step in range(3):
        set_gradients(together, step)
        set_gradients(alone, step)
        for optimizer in optimizers:
            optimizer.step()
    assert all(np.array_equal(a.data, b.data) for a, b in zip(together, alone, strict=True))


def test_a_later_optimizer_takes_over():
    params = parameters()
    first = optim.SGD(params, lr=0.1)
    values = [p.data.copy() for p in params]
    second = optim.SGD(params[:1], lr=0.1)
    assert all(np.array_equal(p.data, value) for p, value in zip(params, values, strict=True))
    set_gradients(params, 0)
    for call in (first.step, first.zero_grad, lambda: first.clip_grad_norm(1.0)):
        with pytest.raises(RuntimeError, match=r"^SGD: expected its parameters in its own buffer, got some that were"):
            call()
    second.step()
    third = optim.SGD(params[-1:], lr=0.1)
    with pytest.raises(RuntimeError):
        first.step()
    second.step()
    third.step()


@pytest.mark.parametrize("call", ["step", "zero_grad"])
@pytest.mark.parametrize("protocol", [None, *range(2, pickle.HIGHEST_PROTOCOL + 1)])
def test_a_copy_does_not_step(protocol, call):
    optimizer = optim.SGD(parameters(), lr=0.1)
    other = copy.deepcopy(optimizer) if protocol is None else pickle.loads(pickle.dumps(optimizer, protocol))
    with pytest.raises(RuntimeError, match="or because this is a copy"):
        getattr(other, call)()
    getattr(optimizer, call)()


def test_clip_grad_norm():
    params = parameters()
    grads = set_gradients(params, 0)
    optimizer = optim.SGD(params, lr=0.1)
    norm = math.sqrt(sum((g**2).sum() for g in grads))
    assert optimizer.clip_grad_norm(2 * norm) == pytest.approx(norm)
    assert all(np.array_equal(p.grad, g) for p, g in zip(params, grads, strict=True))
    assert optimizer.clip_grad_norm(0.5) == pytest.approx(norm)
    for p, g in zip(params, grads, strict=True):
        np.testing.assert_allclose(p.grad, g * (0.5 / (norm + 1e-6)))
    with pytest.raises(ValueError, match=r"^max_norm: expected a finite number of at least 0, got -1$"):
        optimizer.clip_grad_norm(-1)


# --- wrong arguments ------------------------------------------------------------------------------------------------

P = parameters()
WRONG = [
    (lambda: optim.SGD([]), ValueError, "params: expected at least one parameter in a group, got none"),
    (lambda: optim.SGD([{"params": []}]), ValueError, "params: expected at least one parameter in a group, got none"),
    (lambda: optim.SGD([{"lr": 0.1}]), TypeError,
     "params: expected groups that are dicts with 'params', got {'lr': 0.1}"),
    (lambda: optim.SGD([{"params": P}, P[0]]), TypeError,
     "params: expected groups that are dicts with 'params', got Parameter(shape=(3, 4), dtype=float64)"),
    (lambda: optim.SGD([{"params": P, "beta": 1}]), ValueError,
     "params: expected the settings lr, momentum, dampening, weight_decay, nesterov in a group, got 'beta'"),
    (lambda: optim.SGD([3]), TypeError, "params: expected nn.Parameter objects, got 3"),
    (lambda: optim.SGD([P[0], P[0]]), ValueError,
     "params: expected each parameter once, got Parameter(shape=(3, 4), dtype=float64) twice"),
    (lambda: optim.SGD([{"params": P}, {"params": P[3:]}]), ValueError,
     "params: expected each parameter once, got Parameter(shape=(1,), dtype=float64) twice"),
    (lambda: optim.SGD([P[0], nn.Parameter(np.ones(2, np.float32))]), TypeError,
     "params: expected parameters of one type, float64, got float32 at 1"),
    (lambda: optim.SGD(P, lr=-0.1), ValueError, "lr: expected a finite number of at least 0, got -0.1"),
    (lambda: optim.SGD(P, lr="fast"), TypeError, "lr: expected a finite number of at least 0, got 'fast'"),
    (lambda: optim.SGD(P, momentum=-1), ValueError, "momentum: expected a finite number of at least 0, got -1"),
    (lambda: optim.SGD(P, weight_decay=math.nan), ValueError,
     "weight_decay: expected a finite number of at least 0, got nan"),
    (lambda: optim.SGD(P, nesterov=True), ValueError,
     "nesterov: expected a momentum above 0 and dampening 0 with it, got 0 and 0"),
    (lambda: optim.SGD(P, nesterov=1), TypeError, "nesterov: expected a bool, got 1"),
    (lambda: optim.SGD([{"params": P, "lr": -1}]), ValueError, "lr: expected a finite number of at least 0, got -1"),
    (lambda: optim.Adam(P, betas=0.9), TypeError, "betas: expected a pair of numbers, got 0.9"),
    (lambda: optim.Adam(P, betas=(0.9, 1.0)), ValueError,
     "betas: expected two numbers from 0 to below 1, got (0.9, 1.0)"),
    (lambda: optim.AdamW(P, eps=-1), ValueError, "eps: expected a finite number of at least 0, got -1"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "error", "message"), WRONG, ids=[message for _, _, message in WRONG])
def test_wrong_arguments(make, error, message):
    places = [p.data for p in P]
    with pytest.raises(error) as caught:
        make()
    assert str(caught.value) == message
    assert all(p.data is place for p, place in zip(P, places, strict=True))


# --- saved state ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cls", "formula", "settings"), CASES, ids=IDS)
@pytest.mark.parametrize("steps", [0, 3])
def test_resumed_runs_agree_to_the_bit(cls, formula, settings, steps):
    straight = parameters(np.float32)
    one = cls([{"params": straight[:2], "lr": 0.01}, {"params": straight[2:]}], lr=0.05, **settings)
    for step in range(steps):
        set_gradients(straight, step)
        one.step()
    resumed = parameters(np.float32)
    two = cls([{"params": resumed[:2]}, {"params": resumed[2:]}], lr=0.7, **settings)
    for p, q in zip(resumed, straight, strict=True):
        p.data = q.data
    two.load_state_dict(one.state_dict())
    assert two.param_groups[0]["lr"] == 0.01
    for step in range(steps, steps + 3):
        set_gradients(straight, step)
        set_gradients(resumed, step)
        one.step()
        two.step()
    assert all(np.array_equal(p.data, q.data) for p, q in zip(resumed, straight, strict=True))


def test_state_dict_is_flat_and_a_copy():
    params = parameters()
    optimizer = optim.Adam([{"params": params[:1]}, {"params": params[1:3]}], lr=0.1)
    optimizer.step()
    state = optimizer.state_dict()
    assert list(state) == [
        *[f"param_groups.{g}.{name}" for g in (0, 1) for name in ("lr", "betas", "eps", "weight_decay", "step")],
        "state.0.exp_avg",
        "state.0.exp_avg_sq",
        *[f"state.{i}.{name}" for name in ("exp_avg", "exp_avg_sq") for i in (1, 2)],
    ]
    assert state["state.2.exp_avg"].shape == params[2].shape
    assert state["param_groups.1.step"] == 1
    np.testing.assert_array_equal(state["param_groups.0.betas"], [0.9, 0.999])
    set_gradients(params, 0)
    optimizer.step()
    assert not state["state.2.exp_avg"].any()


def test_loading_lists_every_problem_and_changes_nothing():
    params = parameters()
    optimizer = optim.Adam(params, lr=0.1)
    set_gradients(params, 0)
    optimizer.step()
    before = optimizer.state_dict()
    state = optimizer.state_dict()
    del state["state.1.exp_avg"], state["param_groups.0.eps"]
    state["state.0.exp_avg"] = np.ones((4, 3))
    state["state.3.exp_avg_sq"] = np.ones(1, complex)
    state["state.9.exp_avg"] = np.ones(1)
    state["param_groups.0.lr"] = 7.0
    with pytest.raises(ValueError) as caught:
        optimizer.load_state_dict(state)
    assert str(caught.value) == (
        "state_dict: expected the names and shapes of this Adam, got differences:\n"
        "  missing: param_groups.0.eps\n"
        "  wrong shape: state.0.exp_avg, expected (3, 4), got (4, 3)\n"
        "  missing: state.1.exp_avg\n"
        "  wrong type: state.3.exp_avg_sq, expected float64, got complex128\n"
        "  unexpected: state.9.exp_avg"
    )
    with pytest.raises(ValueError, match=r"^lr: expected a finite number of at least 0, got -1$"):
        optimizer.load_state_dict(before | {"param_groups.0.lr": -1})
    with pytest.raises(ValueError, match=r"^param_groups\.0\.step: expected a non-negative int, got -1$"):
        optimizer.load_state_dict(before | {"param_groups.0.step": -1})
    after = optimizer.state_dict()
    assert list(after) == list(before)
    assert all(np.array_equal(after[name], before[name]) for name in before)


def test_state_of_another_optimizer_is_refused():
    with pytest.raises(ValueError, match=r"unexpected: param_groups\.0\.momentum"):
        optim.Adam(parameters()).load_state_dict(optim.SGD(parameters()).state_dict())


# --- schedules ------------------------------------------------------------------------------------------------------


def sgd(lr=0.1, **settings) -> optim.SGD:
    return optim.SGD([nn.Parameter(np.zeros(1))], lr=lr, **settings)


def rates(schedule: optim.Schedule, steps: int) -> list[float]:
    result = schedule.get_last_lr()
    for _ in range(steps):
        schedule.step()
        result += schedule.get_last_lr()
    return result


def test_step_lr():
    assert rates(optim.StepLR(sgd(0.8), 2, 0.5), 5) == [0.8, 0.8, 0.4, 0.4, 0.2, 0.2]


def test_cosine_annealing_lr():
    found = rates(optim.CosineAnnealingLR(sgd(1.0), 4, eta_min=0.2), 5)
    half = math.sqrt(0.5)
    cosines = [1, half, 0, -half, -1, -half]
    np.testing.assert_allclose(found, [0.2 + 0.8 * (1 + c) / 2 for c in cosines], rtol=1e-12)


def test_linear_lr():
    np.testing.assert_allclose(rates(optim.LinearLR(sgd(0.6)), 6), [0.2, 0.28, 0.36, 0.44, 0.52, 0.6, 0.6])
    np.testing.assert_allclose(rates(optim.LinearLR(sgd(1.0), 1.0, 0.0, 4), 5), [1, 0.75, 0.5, 0.25, 0, 0])


def test_one_cycle_lr():
    optimizer = sgd(0.1, momentum=0.9)
    schedule = optim.OneCycleLR(optimizer, max_lr=1.0, total_steps=10)
    found, momenta = [], []
    for step in range(10):
        found.append(optimizer.lr)
        momenta.append(optimizer.param_groups[0]["momentum"])
        if step < 9:
            schedule.step()
    # By hand: from 1/25 up to 1 along half a cosine over steps 0 to 2, then down to 1/25e4 over steps 2 to 9.
    down = [1 - (1 - 4e-6) * (1 - math.cos(math.pi * i / 7)) / 2 for i in range(1, 8)]
    np.testing.assert_allclose(found, [0.04, 0.52, 1.0, *down], rtol=1e-9, atol=1e-15)
    rise = [0.95 - 0.1 * (1 - math.cos(math.pi * (1 - i / 7))) / 2 for i in range(1, 8)]
    np.testing.assert_allclose(momenta, [0.95, 0.9, 0.85, *rise], rtol=1e-9)


def test_one_cycle_lr_linear():
    optimizer = sgd(0.1)
    schedule = optim.OneCycleLR(
        optimizer, 1.0, 5, 0.4, "linear", cycle_momentum=False, div_factor=2, final_div_factor=5
    )
    np.testing.assert_allclose(rates(schedule, 4), [0.5, 1.0, 0.7, 0.4, 0.1], rtol=1e-12)
    assert optimizer.param_groups[0]["momentum"] == 0


def test_one_cycle_lr_of_groups_and_betas():
    params = parameters()
    optimizer = optim.Adam([{"params": params[:1]}, {"params": params[1:]}])
    schedule = optim.OneCycleLR(optimizer, [1.0, 2.0], 10)
    schedule.step()
    schedule.step()
    assert schedule.get_last_lr() == [1.0, 2.0]
    assert [group["betas"] for group in optimizer.param_groups] == [(0.85, 0.999)] * 2


def test_one_cycle_lr_keeps_the_second_beta_of_each_group():
    params = parameters()
    optimizer = optim.AdamW([{"params": params[:1]}, {"params": params[1:], "betas": (0.5, 0.75)}])
    schedule = optim.OneCycleLR(optimizer, 1.0, 10)
    schedule.step()
    first, second = (group["betas"] for group in optimizer.param_groups)
    assert first[0] == second[0]
    assert (first[1], second[1]) == (0.999, 0.75)


@pytest.mark.parametrize("pct_start", [0.0, 0.1, 0.25, 1.0])
@pytest.mark.parametrize("total_steps", [1, 2, 10])
def test_one_cycle_lr_stays_within_its_bounds(total_steps, pct_start):
    for strategy in ("cos", "linear"):
        schedule = optim.OneCycleLR(sgd(), 1.0, total_steps, pct_start, strategy, cycle_momentum=False)
        found = rates(schedule, total_steps)
        assert all(1 / 25e4 - 1e-12 <= rate <= 1 + 1e-12 for rate in found)
        assert found[-1] == found[-2]
        with pytest.raises(ValueError) as caught:
            schedule.step()
        assert str(caught.value) == f"total_steps: expected at most {total_steps} calls of step, got {total_steps + 1}"
        assert schedule.last_epoch == total_steps


def test_sequential_lr():
    optimizer = sgd(1.0)
    parts = [
        optim.LinearLR(optimizer, 0.25, total_iters=3),
        optim.CosineAnnealingLR(optimizer, 2),
        optim.StepLR(optimizer, 1, 0.5),
    ]
    found = rates(optim.SequentialLR(optimizer, parts, [3, 5]), 7)
    np.testing.assert_allclose(found, [0.25, 0.5, 0.75, 1.0, 0.5, 1.0, 0.5, 0.25], atol=1e-15)


def test_schedule_sets_every_group():
    params = parameters()
    optimizer = optim.SGD([{"params": params[:1], "lr": 1.0}, {"params": params[1:]}], lr=0.1)
    schedule = optim.StepLR(optimizer, 1, 0.5)
    schedule.step()
    assert schedule.get_last_lr() == [0.5, 0.05]
    assert schedule.base_lrs == [1.0, 0.1]


SCHEDULES = {
    "StepLR": lambda o: optim.StepLR(o, 3, 0.7),
    "CosineAnnealingLR": lambda o: optim.CosineAnnealingLR(o, 11, 0.01),
    "LinearLR": lambda o: optim.LinearLR(o, 0.3, total_iters=9),
    "OneCycleLR": lambda o: optim.OneCycleLR(o, 0.5, 20),
    "SequentialLR": lambda o: optim.SequentialLR(
        o, [optim.LinearLR(o, 0.3, total_iters=4), optim.CosineAnnealingLR(o, 9)], [4]
    ),
}


@pytest.mark.parametrize("order", ["schedule then load", "load then schedule"])
@pytest.mark.parametrize("steps", [0, 3, 7])
@pytest.mark.parametrize("name", SCHEDULES)
def test_resumed_schedules_agree_to_the_bit(name, steps, order):
    straight = sgd(0.1, momentum=0.9)
    one = SCHEDULES[name](straight)
    for _ in range(steps):
        one.step()
    saved = straight.state_dict(), one.state_dict()
    resumed = sgd(0.7, momentum=0.5)
    if order == "load then schedule":
        resumed.load_state_dict(saved[0])
        two = SCHEDULES[name](resumed)
    else:
        two = SCHEDULES[name](resumed)
        resumed.load_state_dict(saved[0])
    two.load_state_dict(saved[1])
    assert two.last_epoch == steps
    for _ in range(6):
        assert resumed.state_dict() == straight.state_dict()
        one.step()
        two.step()
    assert two.get_last_lr() == one.get_last_lr()


def test_loading_a_wrong_schedule_state_changes_nothing():
    schedule = optim.StepLR(sgd(), 1)
    state = schedule.state_dict()
    for bad, error in [
        ({}, ValueError),
        (state | {"gamma": 1}, ValueError),
        (state | {"last_epoch": -1}, ValueError),
        (state | {"last_epoch": 1.5}, TypeError),
        (state | {"base_lrs": np.ones(2)}, ValueError),
    ]:
        with pytest.raises(error, match=r"^(state_dict|last_epoch): expected "):
            schedule.load_state_dict(bad)
    assert schedule.last_epoch == 0
    assert schedule.base_lrs == [0.1]


OPTIMIZER = sgd(momentum=0.0)
WRONG_SCHEDULES = [
    (lambda: optim.StepLR(3, 1), TypeError, "optimizer: expected an Optimizer, got 3"),
    (lambda: optim.StepLR(OPTIMIZER, 0), ValueError, "step_size: expected a positive int, got 0"),
    (lambda: optim.StepLR(OPTIMIZER, 1, gamma=-1), ValueError, "gamma: expected a finite number of at least 0, got -1"),
    (lambda: optim.CosineAnnealingLR(OPTIMIZER, 0), ValueError, "T_max: expected a positive int, got 0"),
    (lambda: optim.CosineAnnealingLR(OPTIMIZER, 2.5), TypeError, "T_max: expected a positive int, got 2.5"),
    (lambda: optim.LinearLR(OPTIMIZER, 0.0), ValueError, "start_factor: expected a number above 0, got 0.0"),
    (lambda: optim.LinearLR(OPTIMIZER, 0.5, 1.5), ValueError, "end_factor: expected a number from 0 to 1, got 1.5"),
    (lambda: optim.LinearLR(OPTIMIZER, total_iters=0), ValueError, "total_iters: expected a positive int, got 0"),
    (lambda: optim.OneCycleLR(3, 1.0, 10), TypeError, "optimizer: expected an Optimizer, got 3"),
    (lambda: optim.OneCycleLR(OPTIMIZER, [1.0, 2.0], 10), ValueError,
     "max_lr: expected a number or a list of 1, got [1.0, 2.0]"),
    (lambda: optim.OneCycleLR(OPTIMIZER, 1.0, 0), ValueError, "total_steps: expected a positive int, got 0"),
    (lambda: optim.OneCycleLR(OPTIMIZER, 1.0, 5, 1.5), ValueError, "pct_start: expected a number from 0 to 1, got 1.5"),
    (lambda: optim.OneCycleLR(OPTIMIZER, 1.0, 5, anneal_strategy="exp"), ValueError,
     "anneal_strategy: expected 'cos' or 'linear', got 'exp'"),
    (lambda: optim.OneCycleLR(OPTIMIZER, 1.0, 5), ValueError,
     "cycle_momentum: expected an optimizer with momentum, or False, got momentum 0"),
    (lambda: optim.OneCycleLR(OPTIMIZER, 1.0, 5, cycle_momentum=False, div_factor=0), ValueError,
     "div_factor: expected a number above 0, got 0"),
    (lambda: optim.SequentialLR(OPTIMIZER, [optim.StepLR(OPTIMIZER, 1), abs], [1]), TypeError,
     "schedulers: expected schedules, got <built-in function abs>"),
    (lambda: optim.SequentialLR(OPTIMIZER, [optim.StepLR(sgd(), 1)], []), ValueError,
     "schedulers: expected schedules of this optimizer, got a StepLR of another"),
    (lambda: optim.SequentialLR(OPTIMIZER, [optim.StepLR(OPTIMIZER, 1)], [1]), ValueError,
     "milestones: expected one fewer than schedulers, got 1 for 1"),
    (lambda: optim.SequentialLR(OPTIMIZER, [], []), ValueError,
     "milestones: expected one fewer than schedulers, got 0 for 0"),
    (lambda: optim.SequentialLR(OPTIMIZER, [optim.StepLR(OPTIMIZER, 1)] * 3, [2, 2]), ValueError,
     "milestones: expected ascending numbers, got [2, 2]"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "error", "message"), WRONG_SCHEDULES, ids=[row[2] for row in WRONG_SCHEDULES])
def test_wrong_schedule_arguments(make, error, message):
    with pytest.raises(error) as caught:
        make()
    assert str(caught.value) == message
