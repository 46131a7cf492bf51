"""A parent that is killed while its server runs; started by test_process."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from hyperplug_vllm.process import ServerProcess
from hyperplug_vllm.serve import Launch

if __name__ == "__main__":
    launch = Launch(
        command=(sys.executable, "-c", sys.argv[2]), environment=dict(os.environ), base_name="b"
    )
    with ServerProcess(launch, log=Path(sys.argv[1])) as server:
        print(server.pid, flush=True)
        time.sleep(60)
