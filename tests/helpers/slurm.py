"""A real Slurm of one node, started by a test and gone after it; nothing of the system's own Slurm is touched."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch")
CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
MpiDefault=none
ReturnToService=2
KillWait=5
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory=4000
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def lacking() -> str | None:
    """Why no Slurm can be started here, if so."""
    found = os.environ["PATH"] + ":/usr/sbin:/sbin"
    missing = [name for name in NEEDED if shutil.which(name, path=found) is None]
    if missing:
        return f"there is no {', '.join(missing)} (Debian: apt-get install slurm-wlm munge)"
    return None if os.geteuid() == 0 else "only root can start Slurm's daemons"


@contextmanager
def started(folder: Path) -> Iterator[dict[str, str]]:
    """The environment in which sbatch, squeue and scancel reach it."""
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    values = {"controller_port": _free_port(), "node_port": _free_port(), "cores": os.cpu_count()}
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(host=socket.gethostname().split(".")[0], folder=folder, **values))
    new = {"SLURM_CONF": str(conf), "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}
    paths = {"socket": "munge.socket", "key-file": key.name, "pid-file": "munged.pid", "seed-file": "munged.seed"}
    munged = ["munged", "--foreground", "--force", *(f"--{name}={folder / file}" for name, file in paths.items())]
    with ExitStack() as daemons:

        def start(*command: str) -> None:
            log = daemons.enter_context((folder / f"{command[0]}.out").open("w"))
            daemon = subprocess.Popen(command, env=os.environ | new, stdout=log, stderr=log)
            daemons.callback(_stop, daemon)

        start(*munged)
        _until((folder / "munge.socket").exists, folder)
        start("slurmctld", "-D")
        start("slurmd", "-D")
        _until(lambda: "idle" in _said("sinfo", "-h", "-o", "%t", **new), folder)
        yield new
        _said("scancel", "--user=root", **new)
        _until(lambda: not jobs(new), folder)


def jobs(environment: dict[str, str]) -> list[str]:
    """What is queued or runs: a line a job."""
    return _said("squeue", "-h", "-o", "%i %j %T", **environment).splitlines()


def _said(*command: str, **environment: str) -> str:
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False).stdout


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _until(is_so: Callable[[], object], folder: Path) -> None:
    end = time.monotonic() + 30
    while not is_so():
        if time.monotonic() > end:
            logs = "\n".join(file.read_text(errors="replace")[-1000:] for file in folder.glob("*.log"))
            raise RuntimeError(f"Slurm did not do as asked in 30 seconds:\n{logs}")
        time.sleep(0.2)


def _stop(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(20)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()
