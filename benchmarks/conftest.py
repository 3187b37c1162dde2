"""What pytest-benchmark shows, and the machine in what it saves."""

from fastcnn.benchmark import machine


def pytest_configure(config):
    if config.option.benchmark_columns is None:
        config.option.benchmark_columns = ["median", "iqr", "min", "rounds"]


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info.update(machine())
