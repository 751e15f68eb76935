"""The command `unmask`, also as `python -m unmask`: see `unmask.cli`."""

from __future__ import annotations

import gc
import os
import sys

# A decoder allocates tens of megabytes for each frame, a network on a CPU gigabytes for each step.
# Both are faster with pages of 2 MB and with memory that is kept instead of returned
# (docs/benchmarks.md). glibc reads these settings when a process starts.
_SETTINGS = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold={}:glibc.malloc.trim_threshold={}"
_DECODING, _NETWORK = _SETTINGS.format(2**25, 2**30), _SETTINGS.format(2**30, 2**36)
_MEMORY = {
    **dict.fromkeys(("videos.extraction:write_stream", "faces.cropping:crop_shard"), _DECODING),
    "plan": _DECODING,
    **dict.fromkeys(("training.fit:fit", "inference.score:score_model"), _NETWORK),
}
# PyTorch's threads sleep while they wait for each other, instead of spinning. Next to other work,
# of the loader or of another user, a training step is eight times as fast (docs/benchmarks.md).
# OpenMP reads this when PyTorch is imported.
_WAITING = ("OMP_WAIT_POLICY", "PASSIVE")
# pydantic would search the metadata of all installed packages for plugins, which takes 10 ms.
_NO_PLUGINS = ("PYDANTIC_DISABLE_PLUGINS", "__all__")


def restart_with_settings(command: str) -> None:
    """Restart this process with the memory and thread settings of a command.

    Returns if the settings are there already, or if the user has set others.
    """
    os.environ.setdefault(*_WAITING)
    os.environ.setdefault(*_NO_PLUGINS)
    if sys.platform == "linux" and command in _MEMORY and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = _MEMORY[command]
        os.execv(sys.executable, sys.orig_argv)


def main() -> int:
    """Run the command line; return the exit status."""
    restart_with_settings(sys.argv[1] if len(sys.argv) > 1 else "")
    # What modules create stays: searching it for garbage takes a tenth of their import.
    gc.disable()
    from unmask.cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
