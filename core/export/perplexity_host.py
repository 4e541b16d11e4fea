"""llama-perplexity as a function of its library: `python -m core.export.perplexity_host LIBRARY COMMON ARGUMENTS`.

The program ends without waiting for the thread that prints (common/log.cpp), so on a busy machine what it says last, the
figures, is lost. Here its log is written out before the process ends; it dies with its parent.
"""

from __future__ import annotations

import ctypes
import signal
import sys
from collections.abc import Sequence

from core.process import python_module
from core.toolchain import Toolchain
from core.worker_process import die_with_parent

# C++ names as gcc and clang write them
_MAIN, _LOG, _FLUSH = "_Z16llama_perplexityiPPc", "_Z15common_log_mainv", "_Z16common_log_flushP10common_log"


def hosted(toolchain: Toolchain, arguments: Sequence[str]) -> list[str]:
    """Return the argument list that runs llama-perplexity with these arguments; ToolchainFailed when it is not there."""
    libraries = (str(toolchain.library(name)) for name in ("llama-perplexity-impl", "llama-common"))
    return python_module("core.export.perplexity_host", *libraries, *arguments)


def main() -> None:
    """Run the program's main function, write out its log, and end with its status."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    program, common = (ctypes.CDLL(path) for path in sys.argv[1:3])
    arguments = [b"llama-perplexity", *(argument.encode() for argument in sys.argv[3:])]
    status = int(program[_MAIN](len(arguments), (ctypes.c_char_p * (len(arguments) + 1))(*arguments, None)))
    log = common[_LOG]
    log.restype = ctypes.c_void_p
    common[_FLUSH](ctypes.c_void_p(log()))
    sys.exit(status)


if __name__ == "__main__":
    main()
