"""The command `unmask`, also as `python -m unmask`: see `unmask.cli`."""

from __future__ import annotations

import os
import sys

# A decoder goes through tens of megabytes of pictures for each frame, a network on a CPU through
# gigabytes of activations for each step. From pages of 2 MB, and from memory that is kept instead
# of given back, both take less time (docs/benchmarks.md); glibc reads this when a process starts.
_SETTINGS = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold={}:glibc.malloc.trim_threshold={}"
_DECODING, _NETWORK = _SETTINGS.format(2**25, 2**30), _SETTINGS.format(2**30, 2**36)
_MEMORY = {
    **dict.fromkeys(("extract-frames", "crop-faces", "plan"), _DECODING),
    **dict.fromkeys(("train", "score"), _NETWORK),
}
# PyTorch's threads wait for each other asleep, not spinning: beside other work, of the loader or of
# another user, a step of training is eight times as fast (docs/benchmarks.md). OpenMP reads this
# when PyTorch is imported.
_WAITING = ("OMP_WAIT_POLICY", "PASSIVE")


def start_over_with_settings(command: str) -> None:
    """Start this process anew with the settings of memory and threads that a command asks for.

    Not where it was started with such, or with a user's own: then it just returns.
    """
    os.environ.setdefault(*_WAITING)
    if sys.platform == "linux" and command in _MEMORY and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = _MEMORY[command]
        os.execv(sys.executable, sys.orig_argv)


def main() -> int:
    """Run the command line; return the exit status."""
    start_over_with_settings(sys.argv[1] if len(sys.argv) > 1 else "")
    from unmask.cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
