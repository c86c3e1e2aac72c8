"""Limits of the machine: matrix products, copies in memory, the processor's instructions, and whether oneDNN is on.

Figures of other scripts need these for comparison. TensorFlow computes with oneDNN if it is on.

Example: python -m benchmarks.machine --json machine.json
"""

import os
import subprocess
import sys
import time

from benchmarks.measuring import spread
from benchmarks.reporting import cpuinfo, measure_and_report, parse_arguments

FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")
QUICK = {"side": 1024, "megabytes": 128, "repeats": 3}


def measure(side=2048, megabytes=512, repeats=10):
    """Measure the machine.

    Args:
        side: Of the square matrices that are multiplied.
        megabytes: Size of the array that is copied; more than the caches hold.
        repeats: Number of measurements.

    Returns:
        List of rows.
    """
    rows = []
    for threads in sorted({1, os.cpu_count()}):
        speeds = [matrix_product(side, threads) for _ in range(repeats + 1)][1:]
        rows.append({"what": f"float32 matrix product, {threads} threads", "value": spread(speeds), "unit": "GFLOP/s"})
    speeds = [memory_copy(megabytes) for _ in range(repeats + 1)][1:]
    rows.append({"what": "memory copy, read and written, 1 thread", "value": spread(speeds), "unit": "GB/s"})
    rows.append({"what": "instructions", "value": " ".join(instructions()) or "unknown"})
    for setting in (None, "0", "1"):
        name = "by default" if setting is None else f"with TF_ENABLE_ONEDNN_OPTS={setting}"
        rows.append({"what": f"TensorFlow's oneDNN {name}", "value": "on" if onednn_is_on(setting) else "off"})
    return rows


def matrix_product(side, threads=None):
    """GFLOP/s of one product of float32 matrices; all threads by default."""
    import numpy as np
    from threadpoolctl import threadpool_limits

    a, b = np.random.default_rng(0).random((2, side, side), np.float32)
    with threadpool_limits(threads):
        start = time.perf_counter()
        a @ b
        return 2 * side**3 / (time.perf_counter() - start) / 1e9


def memory_copy(megabytes):
    """GB/s read and written by a copy."""
    import numpy as np

    source = np.ones(megabytes * 2**20, np.uint8)
    target = np.zeros_like(source)
    start = time.perf_counter()
    np.copyto(target, source)
    return 2 * source.size / (time.perf_counter() - start) / 1e9


def instructions():
    """Those of `FLAGS` that the processor has; none where the system does not say."""
    flags = cpuinfo().get("flags", "").split()
    return [flag for flag in FLAGS if flag in flags]


def multiplies_bfloat16():
    """Whether the processor has instructions for bfloat16."""
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(instructions())


def onednn_is_on(setting):
    """Whether TensorFlow says at its start that oneDNN is on, under a value of TF_ENABLE_ONEDNN_OPTS (None: unset)."""
    environment = {k: v for k, v in os.environ.items() if k != "TF_ENABLE_ONEDNN_OPTS"}
    environment["TF_CPP_MIN_LOG_LEVEL"] = "0"
    if setting is not None:
        environment["TF_ENABLE_ONEDNN_OPTS"] = setting
    command = [sys.executable, "-c", "import tensorflow"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return "oneDNN custom operations are on" in done.stderr


def main():
    settings, path = parse_arguments(
        __doc__,
        QUICK,
        ("--side", {"type": int, "help": "of the square matrices (2048)"}),
        ("--megabytes", {"type": int, "help": "copied in memory (512)"}),
        ("--repeats", {"type": int, "help": "measurements (10)"}),
    )
    measure_and_report("machine", measure, settings, path)


if __name__ == "__main__":
    main()
