"""What pytest-benchmark shows, and the machine in what it saves."""

import sys
from pathlib import Path

from fastcnn.benchmark.report import machine_state, processor
from fastcnn.config import show_config

sys.path.insert(0, str(Path(__file__).parent))  # for `import comparison`, as the commands have it


def pytest_configure(config):
    if config.option.benchmark_columns is None:
        config.option.benchmark_columns = ["median", "iqr", "min", "rounds"]


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info.update({"processor": processor(), "load average": machine_state(), **show_config(mode="dicts")})
