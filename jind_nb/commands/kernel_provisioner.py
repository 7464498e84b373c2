"""How jupyter_client starts a kernel of ours: it tells a process that waits (`kernel_process`) to become one."""

from __future__ import annotations

from typing import Any

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning import LocalProvisioner

from .kernel_process import WaitingKernel


class WaitingKernelProvisioner(LocalProvisioner):
    """Found by jupyter_client under the name in `pyproject.toml`."""

    async def launch_kernel(self, cmd: list[str], **options: Any) -> KernelConnectionInfo:
        waiting: WaitingKernel = options["waiting"]
        _python, _safe_path, _m, _module, *arguments = cmd
        waiting.begin(arguments, options["cwd"], options["env"], options["pass_fds"])
        self.process = waiting.process
        self.pid = self.pgid = waiting.process.pid  # the first of its own group
        return self.connection_info
