"""The time of a training step by kind of operation, from TensorFlow's own profiler.

Operations run side by side on the cores, so their times add up to more than the step's.

Example: python -m benchmarks.profile_step --size 192 --json profile.json
"""

import tempfile
from collections import Counter
from pathlib import Path

from benchmarks.measuring import in_fresh_process
from benchmarks.models import NETWORKS
from benchmarks.reporting import parse_arguments, report

# What TensorFlow's names of operations begin with, without oneDNN's prefix, and what we call it. The first that fits.
KINDS = {
    "DepthwiseConv2dNativeBackprop": "depthwise convolution, backward",
    "DepthwiseConv2dNative": "depthwise convolution, forward",
    "FusedDepthwiseConv2dNative": "depthwise convolution, forward",
    "Conv2DBackprop": "convolution, backward",
    "Conv2D": "convolution, forward",
    "FusedConv2D": "convolution, forward",
    "ResizeBilinear": "enlarging",
    "Relu": "ReLU",
    "FusedBatchNorm": "batch normalization",
    "Cast": "change of precision",
}
# Those that Keras makes a batch normalization of, also found elsewhere; `AddN` joins gradients, also at the skips.
ELEMENTWISE = ("Mul", "Sum", "Mean", "SquaredDifference", "Tile", "Sub", "AddV2", "AddN", "Rsqrt", "Square", "RealDiv")
QUICK = {"networks": ["plain"], "size": 96, "batch_size": 4}


def measure(networks=("as it comes", "fast"), size=192, batch_size=16):
    """Profile a training step of networks.

    Args:
        networks: Names of `benchmarks.models.NETWORKS`.
        size: Side of the image in pixels.
        batch_size: Images a step.

    Returns:
        List of rows: one a network and kind of operation.
    """
    rows = []
    for name in networks:
        settings = {"image_size": size, "batch_size": batch_size, **NETWORKS[name]}
        times = in_fresh_process("benchmarks.profile_step:profile", settings)
        whole = sum(times.values())
        rows += [
            {"network": name, "kind": kind, "ms": ms, "share, %": 100 * ms / whole}
            for kind, ms in sorted(times.items(), key=lambda pair: -pair[1])
            if ms > 0.005 * whole
        ]
    return rows


def profile(steps=3, **settings):
    """A worker's maker: dict from kind of operation to its milliseconds a step."""
    import tensorflow as tf

    from benchmarks.training import build_step

    _, step = build_step(**settings)
    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder):
            for _ in range(steps):
                step()
        (trace,) = Path(folder).rglob("*.xplane.pb")
        times = read_operations(trace)
    kinds = Counter()
    for operation, seconds in times.items():
        kinds[kind_of(operation)] += 1e3 * seconds / steps
    return dict(kinds), None


def read_operations(trace):
    """Counter of the seconds of each kind of operation in a profile."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    space = xplane_pb2.XSpace()
    space.ParseFromString(trace.read_bytes())
    seconds = Counter()
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                name, _, operation = plane.event_metadata[event.metadata_id].name.rpartition(":")
                # "layer/operation:Operation"; others, such as "ExecutorState::Process", are the steps around them.
                if name and not name.endswith(":") and not operation.startswith(" "):
                    seconds[operation] += event.duration_ps / 1e12
    return seconds


def kind_of(operation):
    """What an operation is part of."""
    operation = operation.removeprefix("_Mkl").removeprefix("Native")
    found = next((kind for start, kind in KINDS.items() if operation.startswith(start)), None)
    return found or ("elementwise arithmetic" if operation in ELEMENTWISE else "other")


def main():
    settings, path = parse_arguments(
        __doc__,
        QUICK,
        ("--networks", {"nargs": "+", "choices": NETWORKS, "help": "(as it comes, fast)"}),
        ("--size", {"type": int, "help": "side of the image in pixels (192)"}),
        ("--batch-size", {"type": int, "help": "images a step (16)"}),
    )
    report("profile_step", measure(**settings), settings, path)


if __name__ == "__main__":
    main()
