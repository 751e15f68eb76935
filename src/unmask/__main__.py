"""The command `unmask`, also as `python -m unmask`: see `unmask.cli`."""

from __future__ import annotations

import os
import sys

# A decoder goes through tens of megabytes of pictures for each frame. From pages of 2 MB, and from
# memory that is kept instead of given back, it takes less time (docs/benchmarks.md); glibc reads
# this when a process starts.
_MEMORY = ":".join(
    (
        "glibc.malloc.hugetlb=1",
        "glibc.malloc.mmap_threshold=33554432",
        "glibc.malloc.trim_threshold=1073741824",
    )
)
_HEAVY = {"extract-frames", "crop-faces", "plan"}
# PyTorch's threads wait for each other asleep, not spinning: beside other work, of the loader or of
# another user, a step of training is eight times as fast (docs/benchmarks.md). OpenMP reads this
# when PyTorch is imported.
_WAITING = ("OMP_WAIT_POLICY", "PASSIVE")


def main() -> int:
    """Run the command line; return the exit status."""
    os.environ.setdefault(*_WAITING)
    if (
        sys.platform == "linux"
        and _HEAVY.intersection(sys.argv[1:2])
        and "GLIBC_TUNABLES" not in os.environ
    ):
        os.environ["GLIBC_TUNABLES"] = _MEMORY
        os.execv(sys.executable, sys.orig_argv)
    from unmask.cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
