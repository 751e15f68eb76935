"""Orphans: a job does not outlive the Snakemake that started it.

`kill -9`, or a system that is out of memory, leaves Snakemake no time to end its jobs. They would
hold cores and the GPU, and meet the same jobs of the next run in the same files.
"""

from __future__ import annotations

import os
import platform
import select
import signal
import threading

from unmask.errors import UnmaskError

# HOST:PROCESS of Snakemake, from workflow/rules/common.smk.
_VARIABLE = "UNMASK_SNAKEMAKE"


def end_with_snakemake() -> None:
    """Ask this process to end (SIGTERM) as soon as the Snakemake that started it has ended.

    Nothing is watched where no workflow runs, on another host (what `srun` starts, it ends), and on
    systems without process descriptors (Linux before 5.3).

    Raises:
        UnmaskError: it has ended already.
    """
    host, _, process = os.environ.get(_VARIABLE, "").rpartition(":")
    if host != platform.node() or not hasattr(os, "pidfd_open"):
        return
    # Not PR_SET_PDEATHSIG: the parent is a shell, which lives on.
    try:
        descriptor = os.pidfd_open(int(process))
    except ProcessLookupError:
        raise UnmaskError(f"process {process}, the Snakemake of this job, is gone; rerun") from None
    except OSError:
        return
    threading.Thread(target=_end_after, args=(descriptor,), daemon=True).start()


def _end_after(descriptor: int) -> None:
    select.select([descriptor], [], [])  # readable when the process has ended
    # Not SIGKILL: of all that Slurm asks to stop, a training may still write its checkpoint when
    # its shell and Snakemake have ended.
    os.kill(os.getpid(), signal.SIGTERM)
