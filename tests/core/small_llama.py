"""Makes a small CMake project laid out as the source archive of llama-cpp-python: it compiles in seconds, with the real tools.

Run as a program it builds that archive's toolchain into the cache and prints how many builds were begun.
"""

from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path

from core import toolchain, toolchain_build
from core.events import Event, Note

TOP = f"llama_cpp_python-{toolchain_build.VERSION}/vendor/llama.cpp/"
CMAKE = """
cmake_minimum_required(VERSION 3.14)
project(small C)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
add_library(llama llama.c)
target_compile_definitions(llama PRIVATE MARK="${MARK}")
foreach (tool bench quantize imatrix perplexity server)
    add_executable(llama-${tool} tool.c)
    target_link_libraries(llama-${tool} llama)
endforeach()
"""
FILES = {
    "CMakeLists.txt": CMAKE,
    "llama.c": 'const char * llama_print_system_info(void) { return "CPU : MARK = " MARK; }\n',
    "tool.c": (
        "#include <stdio.h>\nconst char * llama_print_system_info(void);\n"
        "int main(void) { puts(llama_print_system_info()); return 0; }\n"
    ),
    "LICENSE": "MIT\n",
    "convert_hf_to_gguf.py": "",
    "conversion/__init__.py": "",
    "gguf-py/gguf/__init__.py": "",
    "models/templates/one.jinja": "",
    "docs/large.md": "not kept",
}


def make_archive(path: Path, files: dict[str, str] | None = None, top: str = TOP) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, text in (FILES if files is None else files).items():
            member = tarfile.TarInfo(top + name)
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return path


if __name__ == "__main__":
    heard: list[Event] = []
    toolchain_build.fetch_archive = lambda _: Path(sys.argv[1])
    toolchain.ensure(heard.append)
    sys.stdout.write(str(sum(isinstance(event, Note) for event in heard)))
