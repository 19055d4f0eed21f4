"""The most memory that tensors take while some work runs: what a device's allocator gives out, on a CPU likewise."""

from __future__ import annotations

import gc
import json
import tempfile
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import torch


def peak_bytes(work: Callable[[], object]) -> int:
    """The highest sum of all tensors that are alive at once, those that live already included.

    On CUDA the allocator keeps this number. On a CPU it is counted here from torch's own record of what is allocated
    and freed; weights that are read from their mapped file count like others, workspaces inside of kernels do not.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()
    return bytes_alive() + most_grown(work)


def most_grown(work: Callable[[], object]) -> int:
    """On a CPU: the highest sum of what `work` has allocated and not yet freed."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]")
    return max(0, *accumulate(change for _, change in changes))


def bytes_alive() -> int:
    """Bytes of all tensors that this process can reach, storages that several of them share counted once."""
    gc.collect()
    # By type: asking objects themselves would wake modules that load when they are looked at, and tensors of other
    # types (what torch.compile traces with) have no memory.
    tensors = [found for found in gc.get_objects() if type(found) in (torch.Tensor, torch.nn.Parameter)]
    tensors += [tensor.grad for tensor in tensors if tensor.is_leaf and tensor.grad is not None]
    storages = [tensor.untyped_storage() for tensor in tensors if tensor.device.type != "meta"]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
