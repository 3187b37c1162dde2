"""Draws whole calls of `fastcnn.functional` and compares what they do with `fastcnn.reference`.

    python tests/drawn/calls.py --count 100000 --seed 0
    python tests/drawn/calls.py --isa avx2 --only conv2d,conv2d_backward
    python tests/drawn/calls.py --seed 0 --first 4711 --count 1      # one draw again

A draw is a number: with the seed it gives a function, its arguments (geometry, type, values, memory layout) and, of
every third draw, one argument that is spoilt. What is checked:

  - a result is the reference's in float64, within a bound that scales with the sum of the magnitudes that are added;
    a NaN or an infinity is exactly where the reference has one;
  - one thread and two give the same bits, `out` and in-place calls the bits of the plain call;
  - no call changes its inputs, writes beside `out`, or keeps a block of memory;
  - a refused call raises TypeError, ValueError or MemoryError, names an argument and changes nothing.

Draws run in child processes, so that one which kills its process, or does not return, is reported like any other.
Functions and their generators are in `generators.py`.
"""

from __future__ import annotations

import argparse
import math
import operator
import os
import re
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from numbers import Integral, Real
from pathlib import Path
from unittest import mock

import numpy as np

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parent))

BATCH = 2000  # draws of one child process
MEMORY = 4 << 30  # bytes of address space of a child
PATIENCE = 60.0  # seconds for one draw


class Wrong(Exception):
    """What a draw found."""


# --- comparing ------------------------------------------------------------------------------------------------------


def arrays_of(value, depth=2):
    """All arrays of a call's arguments or results."""
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, (tuple, list)) and depth:
        return [array for item in value for array in arrays_of(item, depth - 1)]
    return []


def root(array):
    """The memory that an array is a view of."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def snapshot(arguments):
    """The bytes of all memory that the arguments reach."""
    return [(array, memory, _bytes(memory)) for array in arrays_of(arguments) for memory in (root(array),)]


def _bytes(array):
    return array.tobytes() if array.dtype != object else repr(array).encode()


def unchanged(before, but=()):
    """Raise unless the memory is as it was."""
    spared = [root(array) for array in but]
    for array, memory, content in before:
        if not any(memory is other for other in spared) and _bytes(memory) != content:
            raise Wrong(f"an argument of shape {array.shape} has changed")


def same_bits(one, other, what):
    for a, b in zip(parts(one), parts(other), strict=True):
        if a.tobytes() != b.tobytes() or a.dtype != b.dtype or a.shape != b.shape:
            raise Wrong(f"{what}: other bits{_first_difference(a, b)}")


def _first_difference(a, b):
    if a.shape != b.shape:
        return f", shapes {a.shape} and {b.shape}"
    different = np.flatnonzero(~((a == b) | ((a != a) & (b != b))))
    if not different.size:
        return ""
    place = tuple(int(i) for i in np.unravel_index(different[0], a.shape))
    return f" in {different.size} of {a.size} elements, first at {place}: {a[place]!r} and {b[place]!r}"


def parts(result):
    """The arrays and numbers of a result, C-contiguous."""
    result = result if isinstance(result, (tuple, list)) else (result,)
    return [np.ascontiguousarray(part) for part in result if part is not None]


def compare(name, got, want, scale, factor, type_of):
    """Raise unless each part of a result is the expected one within factor * eps * scale."""
    got, want = (value if isinstance(value, tuple) else (value,) for value in (got, want))
    if len(got) != len(want):
        raise Wrong(f"{len(got)} results where {len(want)} were expected")
    scales = scale if isinstance(scale, tuple) else (scale,) * len(want)
    for number, (a, b, s) in enumerate(zip(got, want, scales, strict=True)):
        if (a is None) != (b is None):
            raise Wrong(f"result {number}: got {type(a).__name__} where {type(b).__name__} was expected")
        if a is None:
            continue
        a, b = np.asarray(a), np.asarray(b)
        if a.shape != b.shape:
            raise Wrong(f"result {number}: shape {a.shape}, expected {b.shape}")
        if b.dtype.kind != "f" or s is None:
            if b.dtype.kind != "f" and a.dtype.kind != b.dtype.kind:
                raise Wrong(f"result {number}: {a.dtype}, expected {b.dtype}")
            equal = (a == b.astype(a.dtype)) | ((a != a) & (b != b))
            _raise_at(number, equal, a, b, "equal")
            continue
        if (
            a.ndim and not isinstance(got[number], float) and a.dtype not in (type_of, np.dtype(np.float64))
        ) or not a.dtype.isnative:
            raise Wrong(f"result {number}: {a.dtype}, expected {type_of}")
        _compare_floats(number, a, b, np.broadcast_to(np.asarray(s, np.float64), b.shape), factor, type_of)


def _compare_floats(number, a, b, scale, factor, dtype):
    limits = np.finfo(dtype)
    a, b = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(all="ignore"):
        known = np.where(np.isfinite(scale), scale, np.abs(b))
        bound = factor * float(limits.eps) * known + 16 * float(limits.tiny)
        near = np.abs(a - b) <= bound
        most = float(limits.max) / 64
        large = ~np.isfinite(a) & (known > most) & ~np.isnan(b)  # may overflow on the way
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        right = same | (np.isfinite(b) & near) | (np.isfinite(b) & large) | (np.isinf(b) & large & np.isnan(a))
    _raise_at(number, right, a, b, f"expected within {factor:g} eps of the magnitudes summed", scale)


def _raise_at(number, right, a, b, wanted, scale=None):
    if right.all():
        return
    wrong = np.argwhere(~right)
    place = tuple(int(i) for i in wrong[0])
    text = f"result {number}: {len(wrong)} of {a.size} elements wrong, first at {place} of {a.shape}: "
    text += f"got {a[place]!r}, expected {b[place]!r}, {wanted}"
    raise Wrong(text + ("" if scale is None else f" ({scale[place]:g})"))


# --- one draw -------------------------------------------------------------------------------------------------------


def plain(value, dtype=np.float64, is_array=False, is_size=False):
    """A value as the reference takes it: arrays plain, floats in float64."""
    if is_array and isinstance(value, np.generic):
        value = np.asarray(value)
    if isinstance(value, np.ndarray) and not (value.ndim == 0 and value.dtype.kind in "iu" and not is_array):
        array = np.array(np.asarray(value).astype(value.dtype.newbyteorder("=")))
        return array.astype(dtype) if array.dtype.kind == "f" else array
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (Integral, np.ndarray)) or type(value).__name__ == "Index":
        return operator.index(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, (tuple, list)):
        items = tuple(plain(item, dtype) for item in value)
        return items[0] if is_size and len(items) == 1 and isinstance(items[0], int) else items
    return value


def absolute(value):
    """The same arguments with the magnitudes of all floats."""
    if isinstance(value, np.ndarray):
        return np.abs(value) if value.dtype.kind == "f" else value
    if isinstance(value, tuple):
        return tuple(absolute(item) for item in value)
    return value


def fresh(arguments):
    """The arguments of one call: random generators begin anew."""
    return {name: value() if callable(value) and not isinstance(value, type) else value
            for name, value in arguments.items()}  # fmt: skip


def run(seed, index, only=()):
    """Draw a call and check it; return the function's name and what was left unchecked."""
    import generators

    draw, name = generators.begin(seed, index, only)
    spec = generators.SPECS[name]
    try:
        return name, _run(draw, name, spec)
    except Wrong as wrong:
        raise Wrong(f"{name}: {wrong}; {draw.note or 'all arguments valid'}; {draw.told}") from None
    except Exception:
        last = "; ".join(traceback.format_exc().splitlines()[:-12:-1])
        raise Wrong(f"{name}: the test itself failed: {last}; {draw.note}; {draw.told}") from None


def _run(draw, name, spec):
    import generators

    from fastcnn.kernels import memory

    case = spec.make(draw)
    function = spec.function
    arguments = {key: generators.lay_out(draw, key, value, spec) for key, value in case.arguments.items()}
    out = None
    spoilt = draw.chance(0.3) if spec.is_public else False
    if spoilt:
        out = generators.spoil(draw, arguments, spec)
    draw.told = generators.describe(arguments)
    generators.set_precision(draw)
    keep = {key: np.array(np.asarray(arguments[key])) for key in spec.written if _is_plain(arguments.get(key))}

    def reset():
        for key, value in keep.items():
            if value.size and arguments[key].flags.writeable:
                arguments[key][...] = value

    def call(threads, **more):
        reset()
        generators.set_threads(threads)
        with np.errstate(all="ignore"):
            return function(**fresh(arguments), **more)

    before = snapshot(arguments)
    used = memory.used_bytes()[0]
    try:
        result = call(1)
    except (TypeError, ValueError, MemoryError) as error:
        _refused(error, spec, spoilt)
        del error
        unchanged(before)
        if memory.used_bytes()[0] != used:
            raise Wrong("a refused call keeps memory") from None
        return "refused"
    except Exception as error:
        raise Wrong(f"raised {type(error).__name__}: {error}") from None
    if out is not None:  # a wrong `out`, alone, is spoilt
        reset()
        return _wrong_out(call, out, result, arguments, spec)
    written = [arguments[key] for key in keep]
    unchanged(before, written)
    after = {key: np.array(arguments[key]).astype(arguments[key].dtype.newbyteorder("=")) for key in keep}
    if any(isinstance(arguments.get(key), memoryview) for key in spec.written):
        return "updated through a memoryview"
    unchecked = _against_reference(case, spec, name, arguments, keep, after, result)
    first = [part.copy() for part in parts(result)]
    moved = [array.copy() for array in written]
    same_bits(first, call(2), "one thread and two")
    same_bits(moved, written, "one thread and two, of what is updated")
    unchanged(before, written)
    if spec.out and not spoilt:
        _with_out(draw, call, spec, arguments, result, before, written)
    if spec.images and not spoilt and draw.chance(0.2):
        other = generators.other_order(arguments, spec)
        with np.errstate(all="ignore"):
            turned = function(**fresh(other))
        _against_reference(case, spec, name, other, keep, after, turned)
    del result
    return unchecked


def _is_plain(value):
    return isinstance(value, np.ndarray)


def _refused(error, spec, spoilt):
    text = str(error)
    if not spoilt:
        raise Wrong(f"refused: {type(error).__name__}: {text}")
    if isinstance(error, MemoryError):
        if not re.search(r"\d", text):
            raise Wrong(f"a MemoryError that does not say how much: {text!r}")
        return
    if not re.match(rf"({'|'.join(spec.parameters)})\b", text):
        raise Wrong(f"an error that does not begin with an argument's name: {type(error).__name__}: {text}")


def _against_reference(case, spec, name, arguments, keep, after, result):
    """Compare with the reference; return what could not be compared."""
    import generators

    given = {key: keep.get(key, np.asarray(value) if isinstance(value, memoryview) else value)
             for key, value in arguments.items()}  # fmt: skip
    of_floats = [value.dtype for key in given for value in (arrays_of(given[key]) or [given[key]])
                 if isinstance(case.arguments[key], np.ndarray) and isinstance(value, (np.ndarray, np.generic))
                 and value.dtype.kind == "f"]  # fmt: skip
    dtype = np.dtype(of_floats[0].newbyteorder("=")) if of_floats else np.dtype(np.float64)
    double = {key: plain(value, is_array=isinstance(case.arguments[key], np.ndarray), is_size=key in spec.sizes)
              for key, value in fresh(given).items()}  # fmt: skip
    far = not generators.is_near(spec, double)
    if far and not spec.far:
        return "far"
    patch = generators.gathering() if far else mock.patch.dict({})
    with np.errstate(all="ignore"), patch:
        try:
            inputs = {key: value.copy() if key in keep else value for key, value in double.items()}
            want = spec.reference(**double)
        except MemoryError:
            return "too large for the reference"
        except Exception as error:
            raise Wrong(f"accepted, but the reference raises {type(error).__name__}: {error}") from None
        now = {key: double[key] for key in keep}
        if spec.check is not None:
            spec.check(case, inputs, result, want, dtype)
            return ""
        scale = spec.scale(inputs, want) if spec.scale is not None else None
    factor = spec.factor * generators.precision_factor(spec, dtype)
    compare(name, result, want, scale[0] if isinstance(scale, list) else scale, factor, dtype)
    if keep:
        scales = scale[1] if isinstance(scale, list) else {}
        for key, value in now.items():
            compare(name, after[key], value, scales.get(key), factor, dtype)
    return ""


def _guarded(like, fill=0xA5):
    """An array like another (and in its order of axes) within a larger buffer of known bytes."""
    axes = sorted(range(like.ndim), key=lambda axis: -like.strides[axis])
    buffer = np.full(like.nbytes + 256, fill, np.uint8)
    start = 64 + -buffer.ctypes.data % 64
    flat = buffer[start : start + like.nbytes].view(like.dtype)
    array = flat.reshape([like.shape[axis] for axis in axes]).transpose(np.argsort(axes)) if like.ndim else (
        flat.reshape(()))  # fmt: skip
    return array, buffer, start


def _with_out(draw, call, spec, arguments, result, before, written):
    """Once more into arrays that are given, and in place where that is allowed."""
    results = result if isinstance(result, tuple) else (result,)
    first = [None if part is None else np.array(part) for part in results]
    if spec.out_count > 1 or spec.out == "tuple":
        chosen = [part is not None and i < spec.out_count and draw.chance(0.7) for i, part in enumerate(results)]
        guarded = [_guarded(part) if wanted else None for part, wanted in zip(results, chosen, strict=True)]
        out = tuple(None if item is None else item[0] for item in guarded[: spec.out_count])
    else:
        guarded = [_guarded(results[0])]
        out = guarded[0][0]
    for threads in (1, 2):
        again = call(threads, out=out)
        again = again if isinstance(again, tuple) else (again,)
        same_bits([part for part in first if part is not None], again, "with out")
        for part, item in zip(again, guarded, strict=False):
            if item is None:
                continue
            array, buffer, start = item
            if part is not array:
                raise Wrong("what is returned is not `out`")
            if (buffer[:start] != 0xA5).any() or (buffer[start + array.nbytes :] != 0xA5).any():
                raise Wrong("writes beside `out`")
    unchanged(before, written)
    for name in spec.in_place:
        array = arguments.get(name)
        if type(array) is not np.ndarray or not array.flags.writeable or not draw.chance(0.5):
            continue
        if array.dtype != first[0].dtype or array.shape != first[0].shape:
            continue
        saved = root(array).copy()
        content = snapshot(arguments)
        try:
            again = call(1, out=array)
        except ValueError as error:
            if not str(error).startswith("out"):
                raise Wrong(f"out={name}: {error}") from None
            unchanged(content)
            continue
        again = again if isinstance(again, tuple) else (again,)
        same_bits([part for part in first if part is not None], again, f"out={name}")
        root(array)[...] = saved
        unchanged(content)


def _wrong_out(call, out, result, arguments, spec):
    """A spoilt `out`: refused, or, where it is not wrong after all, filled."""
    value = out(result)
    if value is None:
        return "no out"
    first = [part.copy() for part in parts(result)]
    before = snapshot({**arguments, "out": value})
    try:
        again = call(1, out=value)
    except (TypeError, ValueError, MemoryError) as error:
        _refused(error, spec, True)
        unchanged(before)
        return "refused"
    except Exception as error:
        raise Wrong(f"raised {type(error).__name__}: {error}") from None
    for array in arrays_of(arguments):
        if spec.in_place and isinstance(value, np.ndarray) and _same_place(array, value):
            same_bits([np.array(part) for part in again] if isinstance(again, tuple) else again, first, "in place")
            return ""
    # (What is unaligned or of another byte order is copied before anything is written.)
    inputs = [array for array in arrays_of(arguments) if array.flags.aligned and array.dtype.isnative]
    if any(np.shares_memory(mine, other) for mine in arrays_of(value) for other in inputs):
        raise Wrong("takes an `out` that overlaps an argument")
    same_bits(first, again, "with out")
    return ""


def _same_place(a, b):
    return a.ctypes.data == b.ctypes.data and a.shape == b.shape and a.strides == b.strides


# --- the command ----------------------------------------------------------------------------------------------------


def child(seed, first, count, only, progress):
    """Run draws in this process; print one line a failure, and write the number of each before it runs."""
    if "asan" not in os.environ.get("LD_PRELOAD", "") and sys.platform.startswith("linux"):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    tally = {}
    with open(progress, "r+b", buffering=0) as file:
        for index in range(first, first + count):
            file.seek(0)
            file.write(struct.pack("q", index))
            try:
                name, outcome = run(seed, index, only)
                tally[outcome] = tally.get(outcome, 0) + 1
                tally[name] = tally.get(name, 0) + 1
            except Wrong as wrong:
                print(f"{index}\t{' '.join(str(wrong).split())}", flush=True)
        file.seek(0)
        file.write(struct.pack("q", first + count))
    print(f"tally\t{tally}", flush=True)


def _batch(options, first, count):
    """Run draws in child processes until all are done; return failures as (index, text), and the tally."""
    failures, tally = [], {}
    environment = dict(os.environ, OPENBLAS_NUM_THREADS="1")
    if options.isa:
        environment["FASTCNN_ISA"] = options.isa
    last = first + count
    with tempfile.TemporaryDirectory() as folder:
        progress = Path(folder, "progress")
        while first < last:
            progress.write_bytes(struct.pack("q", first))
            command = [sys.executable, str(HERE), "--child", str(progress), "--seed", str(options.seed),
                       "--first", str(first), "--count", str(last - first)]  # fmt: skip
            if options.only:
                command += ["--only", options.only]
            with open(Path(folder, "output"), "w+") as output, open(Path(folder, "errors"), "w+") as errors:
                process = subprocess.Popen(command, stdout=output, stderr=errors, env=environment)
                stuck = _watch(process, progress)
                output.seek(0)
                errors.seek(0)
                for line in output.read().splitlines():
                    index, _, text = line.partition("\t")
                    if index == "tally":
                        for key, number in eval(text).items():
                            tally[key] = tally.get(key, 0) + number
                    else:
                        failures.append((int(index), text))
                report = errors.read()
            at = struct.unpack("q", progress.read_bytes())[0]
            if process.returncode == 0 and at == last:
                break
            if stuck:
                failures.append((at, f"not done after {PATIENCE:g} s"))
            else:
                failures.append((at, f"killed its process (status {process.returncode}): {_essence(report)}"))
            first = at + 1
    return failures, tally


def _essence(report):
    """The lines of a crash's report that say what and where."""
    lines = [line.strip() for line in report.splitlines() if line.strip()]
    told = [line for line in lines if "ERROR: " in line or "runtime error" in line or line.startswith("#")]
    return " | ".join((told or lines)[:8])[:1500]


def _watch(process, progress):
    """Wait for a child; kill it where one draw takes too long, and say so."""
    patience, seen, since = PATIENCE, None, time.monotonic()
    while True:
        try:
            process.wait(1.0)
            return False
        except subprocess.TimeoutExpired:
            now = progress.read_bytes()
            if now != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > patience:
                process.kill()
                process.wait()
                return True


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=1000, help="how many draws")
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--isa", help="instruction set, as FASTCNN_ISA; several with commas between, or all")
    parser.add_argument("--only", default="", help="functions, with commas between")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="child processes at a time")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    only = tuple(name for name in options.only.split(",") if name)
    if options.child:
        child(options.seed, options.first, options.count, only, options.child)
        return 0
    paths = [options.isa]
    if options.isa == "all":
        from fastcnn.kernels import isa

        paths = list(isa.available())
    elif options.isa:
        paths = options.isa.split(",")
    wrong = 0
    for path in paths:
        options.isa = path
        wrong += _draws(options)
    return 1 if wrong else 0


def _draws(options):
    start = time.monotonic()
    size = max(1, min(BATCH, math.ceil(options.count / max(1, options.jobs))))
    batches = [(first, min(size, options.first + options.count - first))
               for first in range(options.first, options.first + options.count, size)]  # fmt: skip
    tally, wrong = {}, 0
    with ThreadPoolExecutor(max(1, options.jobs)) as pool:
        for failures, counted in pool.map(lambda batch: _batch(options, *batch), batches):
            for key, number in counted.items():
                tally[key] = tally.get(key, 0) + number
            for index, text in failures:
                wrong += 1
                print(f"FAILED {text}; again: {_again(options, index)}", flush=True)
    seconds = time.monotonic() - start
    path = options.isa or os.environ.get("FASTCNN_ISA") or "the CPU's own"
    refused, far = tally.get("refused", 0), tally.get("far", 0) + tally.get("too large for the reference", 0)
    print(f"{path}: {options.count} calls drawn in {seconds:.0f} s, {wrong} wrong; {refused} refused, {far} with "
          "geometries beyond the reference")  # fmt: skip
    return wrong


def _again(options, index):
    text = f"python tests/drawn/calls.py --seed {options.seed} --first {index} --count 1"
    text += f" --only {options.only}" if options.only else ""
    return text + (f" --isa {options.isa}" if options.isa else "")


if __name__ == "__main__":
    sys.exit(main())
