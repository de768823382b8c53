import sys

import torch

# Two threads for tensors this small cost more than they bring.
torch.set_num_threads(1)


def pytest_terminal_summary(terminalreporter) -> None:
    counts = getattr(sys.modules.get("test_golden"), "COUNTS", {})
    if counts:
        terminalreporter.write_line("golden vectors: matched / explained / total")
    for program, (matched, explained, total) in sorted(counts.items()):
        terminalreporter.write_line(f"  {program:30s} {matched:4d} / {explained:2d} / {total:4d}")
