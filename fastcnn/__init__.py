"""fastcnn: train convolutional networks on CPUs.

Three doors: `fastcnn.nn` and `fastcnn.Trainer` train a network; `fastcnn.functional` offers the kernels over NumPy
arrays (and `cimport fastcnn.kernels...` over pointers); `benchmarks/` and `fastcnn bench` compare speeds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fastcnn import functional, models, nn, optim
from fastcnn.config import (
    __version__,
    get_conv_algorithm,
    get_float32_matmul_precision,
    get_include,
    set_conv_algorithm,
    set_float32_matmul_precision,
    show_config,
)
from fastcnn.kernels.memory import empty_cache
from fastcnn.kernels.threads import get_num_threads, set_num_threads
from fastcnn.random import manual_seed

if TYPE_CHECKING:
    from fastcnn.training import (
        DataLoader,
        History,
        ImageDataset,
        Trainer,
        load_checkpoint,
        load_dataset,
        load_weights,
        save_checkpoint,
        save_weights,
    )

__all__ = [
    "DataLoader",
    "History",
    "ImageDataset",
    "Trainer",
    "__version__",
    "empty_cache",
    "functional",
    "get_conv_algorithm",
    "get_float32_matmul_precision",
    "get_include",
    "get_num_threads",
    "load_checkpoint",
    "load_dataset",
    "load_weights",
    "manual_seed",
    "models",
    "nn",
    "optim",
    "save_checkpoint",
    "save_weights",
    "set_conv_algorithm",
    "set_float32_matmul_precision",
    "set_num_threads",
    "show_config",
]


def __getattr__(name: str) -> Any:
    # The trainer, and what reads data sets and checkpoints, are imported by their first use: only training needs them.
    if name == "training" or name in __all__:
        training = import_module("fastcnn.training")
        return training if name == "training" else getattr(training, name)
    raise AttributeError(f"module 'fastcnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
