"""Data-parallel training: several devices share every batch evenly.

On JAX, `keras.distribution.DataParallel` shares over the devices of one or more processes, on one or more hosts; the
result equals that of one device with the whole batch, including batch statistics. On TensorFlow, `MirroredStrategy`
shares over the devices of one process; each device normalizes by the statistics of its own share, and the moving
statistics are the means over the devices.
"""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import keras
import numpy as np


@dataclass(frozen=True)
class Devices:
    """The devices that train a network.

    Args:
        names: Tuple of their names, such as "gpu:0", of all processes.
        shared: Whether they share batches. If not, `names` is the one that Keras chooses.
        processes: Number of processes. Each has the same number of devices.
        process: Number of this process. Process 0 writes the run's folder; the others only compute.
    """

    names: tuple[str, ...]
    shared: bool = False
    processes: int = 1
    process: int = 0

    @property
    def keeps(self) -> bool:
        """Whether this process writes the run's folder."""
        return self.process == 0

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """A context in which to build, load, compile and fit a network on all devices."""
        if not self.shared:
            scope = nullcontext()
        elif keras.backend.backend() == "jax":
            scope = keras.distribution.DataParallel(devices=self.names, auto_shard_dataset=False).scope()
        else:
            import tensorflow as tf

            scope = tf.distribute.MirroredStrategy([name.upper() for name in self.names]).scope()
        with scope:
            yield

    def threads(self, wanted: int) -> int:
        """Number of threads that may prepare batches, at most `wanted`.

        It is 1 under a `MirroredStrategy`: with more, Keras would pass batches of one epoch to the next.
        """
        return 1 if self.shared and keras.backend.backend() == "tensorflow" else wanted

    def agree(self, facts: object) -> None:
        """Wait for all processes, and make sure that they train the same.

        Args:
            facts: Value whose `repr` must be the same in all processes.

        Raises:
            ValueError: In every process, if it is not.
        """
        if self.processes == 1:
            return
        from jax.experimental.multihost_utils import process_allgather

        found = process_allgather(np.uint32(zlib.crc32(repr(facts).encode())))
        if len(set(found.tolist())) > 1:
            raise ValueError(
                "Expected the same recipe, images and run's folder (one that all hosts see) in every process, "
                "found others"
            )


@contextmanager
def apart() -> Iterator[None]:
    """A context outside of the sharing, in which one process may build or save a network alone."""
    distribution = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(distribution)


def one_device() -> Devices:
    """The one device that Keras chooses by default."""
    if keras.backend.backend() == "torch":
        import torch

        return Devices(("gpu:0" if torch.cuda.is_available() else "cpu:0",))
    return Devices(tuple(keras.distribution.list_devices()[:1]))


def all_devices(
    batch_size: int, coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> Devices:
    """All devices, of this process or of several, which share batches.

    With a coordinator it waits for the other processes, and must be called before Keras computes anything.

    Args:
        batch_size: Number of images per batch, of all devices together.
        coordinator: Address `HOST:PORT` at which process 0 listens. JAX only.
        processes: Number of processes.
        process: Number of this one.

    Returns:
        `Devices`.

    Raises:
        ValueError: If these devices cannot share such batches, or the backend shares none.
        ConnectionError: If the processes cannot connect.
    """
    backend = keras.backend.backend()
    if backend not in ("jax", "tensorflow"):
        raise ValueError(f"Expected JAX or TensorFlow to train on several devices, found KERAS_BACKEND={backend}")
    if (coordinator, processes, process) != (None, None, None):
        _check_processes(batch_size, coordinator, processes, process)
        try:
            keras.distribution.initialize(coordinator, processes, process)
        except RuntimeError as error:  # jaxlib's
            reason = str(error).splitlines()[0]
            raise ConnectionError(f"Expected {processes} processes to meet, found ({reason}): {coordinator}") from error
    devices = Devices(tuple(keras.distribution.list_devices()), True, processes or 1, process or 0)
    count = len(devices.names)
    if count == 1:
        raise ValueError(f"Expected several devices to share batches, found one: {devices.names[0]}")
    if processes and _devices_here() * processes != count:
        raise ValueError(f"Expected as many devices in each of {processes} processes, found {count} in all")
    if batch_size % count:
        raise ValueError(f"Expected a batch size that {count} devices share evenly, found {batch_size}")
    return devices


def _check_processes(batch_size, coordinator, processes, process):
    if keras.backend.backend() != "jax":
        raise ValueError(
            "Expected JAX to train in several processes, found KERAS_BACKEND="
            f"{keras.backend.backend()}; set KERAS_BACKEND=jax"
        )
    if None in (coordinator, processes, process):
        raise ValueError("Expected all of coordinator, processes and process, found only some")
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"Expected HOST:PORT of the coordinator, found {coordinator!r}")
    if not 0 <= process < processes:
        raise ValueError(f"Expected the number of a process of 0 to {processes - 1}, found {process}")
    if processes > batch_size:
        raise ValueError(f"Expected at most as many processes as images a batch, {batch_size}, found {processes}")


def _devices_here():
    import jax

    return jax.local_device_count()
