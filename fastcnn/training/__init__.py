"""Training: data, the loop, what hooks into it, and checkpoints."""

from fastcnn.training.augment import Augment
from fastcnn.training.callbacks import Callback, Checkpoint, EarlyStopping
from fastcnn.training.checkpoint import (
    CheckpointError,
    load_checkpoint,
    load_weights,
    read_checkpoint,
    save_checkpoint,
    save_weights,
)
from fastcnn.training.datasets import ImageDataset, load_dataset
from fastcnn.training.diagnosis import NonFiniteLossError
from fastcnn.training.history import History, Meter, TrainingState
from fastcnn.training.loader import DataLoader
from fastcnn.training.trainer import Trainer

__all__ = [
    "Augment",
    "Callback",
    "Checkpoint",
    "CheckpointError",
    "DataLoader",
    "EarlyStopping",
    "History",
    "ImageDataset",
    "Meter",
    "NonFiniteLossError",
    "Trainer",
    "TrainingState",
    "load_checkpoint",
    "load_dataset",
    "load_weights",
    "read_checkpoint",
    "save_checkpoint",
    "save_weights",
]
