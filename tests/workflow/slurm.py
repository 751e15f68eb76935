"""A real Slurm of two nodes on this host: a controller and two daemons, with files of their own.

    python tests/workflow/slurm.py FOLDER    # prints what to export; Ctrl-C stops it

It needs root, and Debian's `slurm-wlm` and `munge` (`apt-get install slurm-wlm munge`). Nothing of
a Slurm that this host may belong to is read or touched: key, sockets, ports, state and logs are in
the folder, and only what was started is stopped.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from daemons import free_ports, search_path, wait

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")

_CONFIG = """
ClusterName=unmask
SlurmctldHost={host}
SlurmctldPort={controller}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdLogFile={folder}/slurmd.%n.log
SlurmdSpoolDir={folder}/spool.%n
StateSaveLocation={folder}/state
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=15
CredType=cred/munge
SlurmUser=root
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
MpiDefault=none
ReturnToService=2
SlurmdTimeout=60
MessageTimeout=60
MinJobAge=86400
KillWait=10
JobRequeue=1
SchedulerParameters=bf_interval=2,sched_interval=2
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=UNLIMITED State=UP
"""


@dataclass(frozen=True, order=True)
class Job:
    """A job, its state, how often it was queued again, and the rule and wildcards it is of."""

    number: int
    state: str
    restarts: int
    comment: str


class Cluster:
    """Munge, a controller and two nodes; each node has the host's cores and half of its memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.environment = os.environ | {
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "PATH": f"{self.folder}/bin:{search_path()}",
            # No name server knows the nodes' names; tasks look for the first one's.
            "MASTER_ADDR": "127.0.0.1",
        }
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start all daemons and wait until both nodes are idle.

        Raises:
            RuntimeError: they are not within a minute; the message has the end of their logs.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "state").mkdir(exist_ok=True)
        self.folder.chmod(0o755)  # munge insists
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        (self.folder / "slurm.conf").write_text(self._configuration())
        self._wrap_srun()
        self._start(
            "munged",
            *("munged", "--foreground", "--force", f"--socket={self.folder}/munge.socket"),
            *(f"--key-file={key}", f"--pid-file={self.folder}/munged.pid"),
            *(f"--log-file={self.folder}/munged.log", f"--seed-file={self.folder}/munged.seed"),
        )
        wait(lambda: (self.folder / "munge.socket").exists(), self._logs)
        self.start_controller()
        for name in ("node1", "node2"):
            self._start(name, "slurmd", "-D", "-N", name)
        wait(lambda: self.run("sinfo", "-h", "-o", "%T").split() == ["idle"], self._logs)

    def start_controller(self) -> None:
        """Start the controller, anew after `kill_controller`, from the state that it saved."""
        self._start("slurmctld", "slurmctld", "-D")
        wait(lambda: "UP" in self.run("scontrol", "ping"), self._logs)

    def kill_controller(self) -> None:
        """Kill the controller as a failing machine would."""
        process = self._running.pop("slurmctld")
        process.kill()
        process.wait()

    def stop(self) -> None:
        """Cancel all jobs and stop what was started."""
        if "slurmctld" in self._running:
            self.run("scancel", "--user=root")
            # A daemon that is gone ends no job any more.
            ending = ("RUNNING", "COMPLETING")
            wait(lambda: not any(job.state in ending for job in self.jobs()), self._logs)
        for process in reversed(self._running.values()):
            process.send_signal(signal.SIGTERM)
        for process in self._running.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
        self._running.clear()

    def run(self, *command: str) -> str:
        """Run a command of Slurm and return what it printed; empty where it failed."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        return done.stdout if done.returncode == 0 else ""

    def jobs(self) -> list[Job]:
        """Return all jobs that Slurm remembers, by number."""
        asked = "JobID:|,State:|,RestartCnt:|,Comment:|"
        lines = self.run("squeue", "--states=all", "--noheader", "-O", asked).splitlines()
        found = (line.split("|") for line in lines)
        return sorted(Job(int(job), state, int(n), what) for job, state, n, what, *_ in found)

    def _configuration(self) -> str:
        cores = os.cpu_count() or 1
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
        ports = free_ports(3)
        nodes = "\n".join(
            f"NodeName=node{number} NodeHostname={socket.gethostname()} NodeAddr=127.0.0.1 "
            f"Port={port} CPUs={cores} RealMemory={memory // 2} State=UNKNOWN"
            for number, port in enumerate(ports[1:], 1)
        )
        host = f"{socket.gethostname()}(127.0.0.1)"
        return _CONFIG.format(host=host, controller=ports[0], folder=self.folder, nodes=nodes)

    def _wrap_srun(self) -> None:
        """Let `srun` find its configuration where Snakemake's plugin drops SLURM_ variables."""
        wrapper = self.folder / "bin" / "srun"
        wrapper.parent.mkdir(exist_ok=True)
        srun = shutil.which("srun", path=search_path())
        wrapper.write_text(f'#!/bin/sh\nSLURM_CONF={self.folder}/slurm.conf exec {srun} "$@"\n')
        wrapper.chmod(0o755)

    def _start(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as out:
            self._running[name] = subprocess.Popen(
                command, env=self.environment, stdout=out, stderr=out
            )

    def _logs(self) -> str:
        files = sorted(self.folder.glob("*.log")) + sorted(self.folder.glob("*.out"))
        return "Slurm does not come up\n" + "\n".join(
            f"{path.name}: {path.read_text(errors='replace')[-1500:]}" for path in files
        )


def missing() -> str:
    """Say why no cluster can be started here; empty where one can."""
    if os.geteuid() != 0:
        return "needs root"
    absent = [name for name in NEEDED if shutil.which(name, path=search_path()) is None]
    return f"needs {', '.join(absent)}: apt-get install slurm-wlm munge" if absent else ""


def main(arguments: Sequence[str]) -> None:
    """Start a cluster and stop it when interrupted."""
    if reason := missing():
        sys.exit(reason)
    os.environ["PATH"] = search_path()
    cluster = Cluster(Path(arguments[0]))
    try:
        cluster.start()
        print(cluster.run("sinfo"), end="")
        print(f"export SLURM_CONF={cluster.folder}/slurm.conf PATH={cluster.folder}/bin:$PATH")
        sys.stdout.flush()
        signal.pause()
    except KeyboardInterrupt:
        pass
    finally:
        cluster.stop()


if __name__ == "__main__":
    main(sys.argv[1:])
