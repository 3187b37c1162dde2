"""The random generators that a run draws from, as something with a state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fastcnn import random
from fastcnn.functional import _checks as check
from fastcnn.nn import Module


class Generators:
    """The default generator, and those that layers of a model (such as dropout) were given for themselves.

    Examples
    --------
    >>> from fastcnn import nn
    >>> generators = Generators(nn.Sequential(nn.Dropout(rng=np.random.default_rng(0)), nn.Dropout()))
    >>> before = generators.state_dict()
    >>> list(before["layers"])
    ['0']
    >>> first = random.default_generator().random()
    >>> generators.load_state_dict(before)
    >>> first == random.default_generator().random()
    True
    """

    def __init__(self, model: Module) -> None:
        self._modules = [(name, module) for name, module in model.named_modules() if "rng" in vars(module)]

    @property
    def _layers(self) -> dict[str, np.random.Generator]:
        found = {name: module.rng for name, module in self._modules}
        return {name: rng for name, rng in found.items() if isinstance(rng, np.random.Generator)}

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all generators."""
        layers = {name: rng.bit_generator.state for name, rng in self._layers.items()}
        return {"default": random.get_state(), "layers": layers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned.

        Raises
        ------
        ValueError
            Other layers than these have generators of their own, or a state is of another kind of generator.
        """
        layers = self._layers
        if state["layers"].keys() != layers.keys():
            expected = ", ".join(state["layers"]) or "none"
            check.fail("rng", f"layers {expected} to have their own generators", ", ".join(layers) or "none")
        random.set_state(state["default"])
        for name, rng in layers.items():
            rng.bit_generator.state = state["layers"][name]
