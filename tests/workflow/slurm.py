"""A real Slurm with two nodes on this host: a controller and two daemons with their own files.

It needs root, and Debian's `slurm-wlm` and `munge`. It does not touch a Slurm that this host may
belong to: key, sockets, ports, state and logs are its own, and it stops only what it started.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from daemons import free_ports, search_path, wait

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
PACKAGES = "slurm-wlm munge"

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
    """A job, its state, how often it was queued again, and its rule and wildcards."""

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
            # Tasks look for the first node's address, and no name server knows it.
            "MASTER_ADDR": "127.0.0.1",
        }
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start all daemons and wait until both nodes are idle.

        Raises:
            RuntimeError: they are not within two minutes; the message has the end of their logs.
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
        """Start the controller; after `kill_controller`, from the state that it saved."""
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
            # A daemon that has exited ends no job.
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
        """Run a command of Slurm and return what it printed; empty if it failed."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        return done.stdout if done.returncode == 0 else ""

    def jobs(self) -> list[Job]:
        """Return all jobs that Slurm remembers, by number."""
        fields = "JobID:|,State:|,RestartCnt:|,Comment:|"
        lines = self.run("squeue", "--states=all", "--noheader", "-O", fields).splitlines()
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
        """Let `srun` find its configuration, since Snakemake's plugin drops SLURM_ variables."""
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
        return "Slurm does not start\n" + "\n".join(
            f"{path.name}: {path.read_text(errors='replace')[-1500:]}" for path in files
        )
