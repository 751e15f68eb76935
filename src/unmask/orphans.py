"""Orphans: a job ends when the Snakemake process that started it ends.

After `kill -9`, or when the system runs out of memory, Snakemake cannot stop its jobs. They would
keep cores and the GPU, and the next run would start the same jobs on the same files.
"""

from __future__ import annotations

import os
import platform
import select
import signal
import threading

from unmask.errors import UnmaskError

# HOST:PID of the Snakemake process, set in workflow/rules/common.smk.
_VARIABLE = "UNMASK_SNAKEMAKE"


def end_with_snakemake() -> None:
    """Send this process SIGTERM when the Snakemake process that started it ends.

    Does nothing outside a workflow, on another host than Snakemake's (`srun` ends what it starts),
    and on systems without process descriptors (Linux before 5.3).

    Raises:
        UnmaskError: that process has already ended.
    """
    host, _, process = os.environ.get(_VARIABLE, "").rpartition(":")
    if host != platform.node() or not hasattr(os, "pidfd_open"):
        return
    # PR_SET_PDEATHSIG would not help: the parent is a shell, which survives Snakemake.
    try:
        descriptor = os.pidfd_open(int(process))
    except ProcessLookupError:
        raise UnmaskError(
            f"the Snakemake process of this job, {process}, has ended; run the workflow again"
        ) from None
    except OSError:
        return
    threading.Thread(target=_terminate_after, args=(descriptor,), daemon=True).start()


def _terminate_after(descriptor: int) -> None:
    select.select([descriptor], [], [])  # readable when the process has ended
    # Not SIGKILL: when Slurm stops everything at once, a training job may still be writing its
    # checkpoint after Snakemake has ended.
    os.kill(os.getpid(), signal.SIGTERM)
