"""The networks of the comparison, and their twins in torch.nn. Imports PyTorch; fastcnn's side needs none of this."""

from __future__ import annotations

from collections import OrderedDict

import torch

from fastcnn import models, nn


class Block(torch.nn.Module):
    """`fastcnn.models.BasicBlock` as torchvision writes it."""

    def __init__(self, block: models.BasicBlock) -> None:
        super().__init__()
        self.downsample = None
        for name, child in block.named_children():
            setattr(self, name, _layer(child))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        output = self.relu1(self.bn1(self.conv1(input)))
        output = self.bn2(self.conv2(output))
        output += input if self.downsample is None else self.downsample(input)
        return self.relu2(output)


def _layer(module: nn.Module) -> torch.nn.Module:
    """The layer of the same name in torch.nn; it has the same arguments."""
    if isinstance(module, nn.Sequential):
        return torch.nn.Sequential(OrderedDict((name, _layer(child)) for name, child in module.named_children()))
    if isinstance(module, models.BasicBlock):
        return Block(module)
    arguments = {name: getattr(module, name) for name in module.options}
    if isinstance(module, nn.Conv2d | nn.Linear):
        arguments["bias"] = module.bias is not None
    if isinstance(module, nn.ReLU):
        arguments["inplace"] = True
    return getattr(torch.nn, type(module).__name__)(**arguments)


def twin(module: nn.Module) -> torch.nn.Module:
    """Return the same network in torch.nn, with copies of the same weights."""
    network = _layer(module)
    network.load_state_dict({name: torch.from_numpy(value) for name, value in module.state_dict().items()})
    return network.train(module.training)
