"""Comparison of speeds, behind `fastcnn bench` and `benchmarks/`: each side alone in a process of its own, in turns.

`worker` is such a process, `timing` times sides in turns and does the statistics, `cases` has what fastcnn and NumPy
are compared on, `report` prints it.
"""
