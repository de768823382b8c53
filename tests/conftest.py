import os
import sys

import torch

# Two threads for tensors this small cost more than they bring, the more so where several processes share the cores: the
# tests run side by side and start others.
for library in ("OMP", "MKL", "OPENBLAS"):
    os.environ[f"{library}_NUM_THREADS"] = "1"
torch.set_num_threads(1)


def pytest_unconfigure() -> None:
    """The counts of the golden vectors, as the last lines."""
    counts = getattr(sys.modules.get("test_golden"), "COUNTS", {})
    if counts:
        print("golden vectors: matched / explained / total")
    for program, (matched, explained, total) in sorted(counts.items()):
        print(f"  {program:30s} {matched:4d} / {explained:2d} / {total:4d}")
