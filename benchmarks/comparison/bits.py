"""Whether trained weights depend, to the bit, on the number of threads: hashes on each kernel path."""

from __future__ import annotations

import argparse
import hashlib

import numpy as np

from comparison.isolated import isolated
from comparison.report import NAME, Column, Report
from fastcnn import models, optim
from fastcnn.kernels import isa
from fastcnn.training import Trainer

THREADS = (1, 2, 3, 8)
STEPS, BATCH = 50, 32


def trained_hash() -> str:
    """SHA-256 of LeNet-5's weights after a short training."""
    rng = np.random.default_rng(0)
    model = models.lenet5(rng=rng)
    trainer = Trainer(model, optim.SGD(model.parameters(), 0.05, momentum=0.9))
    for _ in range(STEPS):
        inputs, targets = rng.standard_normal((BATCH, 1, 28, 28), np.float32), rng.integers(0, 10, BATCH)
        trainer.step(inputs, targets)
    digest = hashlib.sha256()
    for array in model.state_dict().values():
        digest.update(array.tobytes())
    return digest.hexdigest()


def run(options: argparse.Namespace, report: Report) -> int:
    """Print the table; the exit status is 1 where a hash depends on the number of threads."""
    paths = [path for path in isa.available() if options.filter.lower() in path]
    title = f"SHA-256 of LeNet-5's weights after {STEPS} steps of batch {BATCH}, by kernel path and number of threads"
    columns = [NAME, Column("threads", "threads", 7), Column("hash", "SHA-256", 64)]
    table = report.table(title, columns, paths)
    same = True
    for path in paths:
        hashes = {}
        for threads in THREADS:
            hashes[threads] = isolated(trained_hash, FASTCNN_ISA=path, FASTCNN_NUM_THREADS=str(threads))
            table.add(name=path, threads=threads, hash=hashes[threads])
        same = same and len(set(hashes.values())) == 1
    print("on each path the same for any number of threads" if same else "DIFFERENT for different numbers of threads")
    return 0 if same else 1
