"""`edgekiln toolchain`: build llama.cpp once for this machine, say what was built."""

from __future__ import annotations

import cyclopts

from flows.cli.session import Common, answer

_DEFAULT_COMMON = Common()
app = cyclopts.App(name="toolchain", help="Build llama.cpp once for this machine, and say what was built.")


@app.command
def build(*, common: Common = _DEFAULT_COMMON) -> None:
    """Build libraries and tools into the cache unless they are there."""
    from core import toolchain
    from flows.cli.terminal import Terminal

    terminal = Terminal(verbose=common.verbose)
    try:
        found = toolchain.ensure(terminal)
    finally:
        terminal.clear()
    answer(common, found.model_dump(mode="json"), f"llama.cpp {found.identity()} lies in {found.folder}")


@app.command
def show(*, common: Common = _DEFAULT_COMMON) -> None:
    """Say which toolchain is built here: version, commit, compiler, CPU features."""
    from core import toolchain
    from core.errors import ToolMissing

    found = toolchain.find()
    if found is None:
        raise ToolMissing("no toolchain is built for this machine", remedy="Run `edgekiln toolchain build`.")
    facts = found.model_dump(mode="json")
    answer(common, facts, "\n".join(f"{name:12} {value}" for name, value in facts.items()))


@app.command
def archive(*, common: Common = _DEFAULT_COMMON) -> None:
    """Print the whole path of the verified source archive of llama-cpp-python, fetching it if need be."""
    from core.toolchain_build import fetch_archive
    from flows.cli.terminal import Terminal

    terminal = Terminal(verbose=common.verbose)
    try:
        path = fetch_archive(terminal)
    finally:
        terminal.clear()
    answer(common, {"archive": str(path)}, str(path), exact=True)
