"""Layers, losses and containers, with torch's names, arguments and parameter names.

A layer holds its parameters and what it saves for backward; the arithmetic is in `fastcnn.functional`.
"""

from fastcnn.nn import init
from fastcnn.nn.activation import GELU, LeakyReLU, LogSoftmax, ReLU, Sigmoid, SiLU, Softmax, Tanh
from fastcnn.nn.container import Residual, Sequential
from fastcnn.nn.conv import Conv1d, Conv2d
from fastcnn.nn.dropout import Dropout
from fastcnn.nn.inspect import GradientError, LayerSummary, Plan, Summary, gradcheck, plan, summary, watch
from fastcnn.nn.linear import Flatten, Identity, Linear
from fastcnn.nn.loss import CrossEntropyLoss, MSELoss
from fastcnn.nn.module import Module, Parameter, is_grad_enabled, no_grad
from fastcnn.nn.norm import BatchNorm1d, BatchNorm2d
from fastcnn.nn.pooling import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AvgPool1d,
    AvgPool2d,
    MaxPool1d,
    MaxPool2d,
)
from fastcnn.nn.preprocessing import Preprocessing

__all__ = [
    "GELU",
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AvgPool1d",
    "AvgPool2d",
    "BatchNorm1d",
    "BatchNorm2d",
    "Conv1d",
    "Conv2d",
    "CrossEntropyLoss",
    "Dropout",
    "Flatten",
    "GradientError",
    "Identity",
    "LayerSummary",
    "LeakyReLU",
    "Linear",
    "LogSoftmax",
    "MSELoss",
    "MaxPool1d",
    "MaxPool2d",
    "Module",
    "Parameter",
    "Plan",
    "Preprocessing",
    "ReLU",
    "Residual",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Summary",
    "Tanh",
    "gradcheck",
    "init",
    "is_grad_enabled",
    "no_grad",
    "plan",
    "summary",
    "watch",
]
