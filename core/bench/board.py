"""The shell scripts that run on a board, and pure parsers of what they print. Nothing is started here.

The scripts are POSIX sh and need coreutils and util-linux only, which every board's distribution has.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

from core.bench.device import BenchTool
from core.bench.llama_bench import elf_arch
from core.env import cpu
from core.env.host import fingerprint
from core.memory.host import total_bytes
from core.nouns import HostFacts, MemoryFacts
from core.telemetry import Sample

FACTS = r"""
for file in /proc/cpuinfo /proc/meminfo /proc/device-tree/model /proc/device-tree/serial-number /etc/machine-id; do
  printf '\n@@ %s\n' "$file"; tr -d '\000' 2>/dev/null < "$file"
done 2>/dev/null
printf '\n@@ arch\n'; uname -m
printf '\n@@ os\n'; uname -sr
printf '\n@@ cpus\n'; nproc
"""

TOOL = r"""
path=$(command -v "$1") || exit 127
printf '\n@@ head\n'; od -An -v -tx1 -N20 "$path"
printf '\n@@ version\n'; "$path" --version 2>&1 | head -n 5
printf '\n@@ sha256\n'; sha256sum < "$path"
"""

# $1 folder, $2 name of the model in it. Prints its hash, or nothing when it is not there.
HAVE = r"""
mkdir -p "$1" && cd "$1" || exit 73
rm -f "$2".part-*
if [ -f "$2" ]; then sha256sum < "$2"; fi
"""

# $1 folder, $2 name of the uploaded part, $3 its final name, $4 the hash it must have
PUT = r"""
cd "$1" || exit 73
printf '%s  %s\n' "$4" "$2" | sha256sum --check --status && mv -- "$2" "$3" && exit 0
rm -f -- "$2"
exit 65
"""

# $1 folder, $2 name of the run, $3 seconds it may take, then the program with its arguments. The lock is inherited by the
# program, so that one left over from a dropped connection is waited for; the watcher ends with this shell.
MEASURE = r"""
folder=$1 name=$2 limit=$3
shift 3
sample() {
  celsius= clock= load= free= governor=
  read -r celsius 2>/dev/null < /sys/class/thermal/thermal_zone0/temp
  read -r clock 2>/dev/null < /sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq
  read -r governor 2>/dev/null < /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor
  read -r load _ < /proc/loadavg
  while read -r key free _; do [ "$key" = MemAvailable: ] && break; done < /proc/meminfo
  bits=$1
  for file in /sys/devices/platform/soc*/*firmware/get_throttled; do
    [ -n "$bits" ] || read -r bits 2>/dev/null < "$file"
  done
  printf '%s|%s|%s|%s|%s|%s|%s\n' "$(date +%s)" "$celsius" "$clock" "$load" "$free" "$bits" "$governor"
}
exec 9> "$folder/lock"
flock -w "$limit" 9 || { echo "another benchmark holds $folder/lock" >&2; exit 75; }
watch() { while sleep 1 && kill -0 $$ 2>/dev/null; do sample ''; done; }
sample "$(vcgencmd get_throttled 2>/dev/null)" > "$folder/$name.telemetry"
watch 9>&- >> "$folder/$name.telemetry" &
watcher=$!
timeout "$limit" "$@" > "$folder/$name.jsonl" 2> "$folder/$name.log"
status=$?
kill "$watcher" 2>/dev/null
sample "$(vcgencmd get_throttled 2>/dev/null)" >> "$folder/$name.telemetry"
[ "$status" = 0 ] || tail -n 3 "$folder/$name.log" >&2
exit "$status"
"""


def sections(text: str) -> dict[str, str]:
    """Split a script's output at its `@@ name` lines."""
    parts = re.split(r"^@@ (\S+)$", text, flags=re.MULTILINE)
    return {name: body.strip() for name, body in zip(parts[1::2], parts[2::2], strict=False)}


def host_facts(text: str) -> HostFacts:
    """Read the output of FACTS; the fingerprint is the one the board gives itself when edgekiln runs there."""
    found = sections(text)
    cpuinfo = found.get("/proc/cpuinfo", "")
    model, board_model, arch = cpu.model_of(cpuinfo), found.get("/proc/device-tree/model", ""), found.get("arch", "")
    ids = [value for path in ("/etc/machine-id", "/proc/device-tree/serial-number") if (value := found.get(path))]
    cpus = found.get("cpus", "")
    return HostFacts(
        fingerprint=fingerprint([*ids, board_model, model or "", arch]),
        arch=arch or "unknown",
        os=found.get("os") or "unknown",
        cpu_model=model,
        cpu_features=cpu.features_of(cpuinfo),
        cpus_usable=int(cpus) if cpus.isdecimal() and int(cpus) else 1,
        ram_bytes=total_bytes(found.get("/proc/meminfo", "").splitlines()),
        ram_limit_bytes=None,
        board_model=board_model or None,
    )


def memory_facts(text: str) -> MemoryFacts:
    """Read the memory's size from the output of FACTS."""
    return MemoryFacts(
        known=False,
        total_bytes=total_bytes(sections(text).get("/proc/meminfo", "").splitlines()),
        modules=(),
        theoretical_gbs=None,
        evidence="the board's /proc/meminfo tells the size; modules and timings are not read over ssh",
    )


def bench_tool(text: str) -> BenchTool:
    """Read the output of TOOL; old builds do not tell their version, the hash always does."""
    found = sections(text)
    version = re.search(r"^version: *(.{1,80})$", found.get("version", ""), flags=re.MULTILINE)
    return BenchTool(
        identity=f"{version[1].strip() if version else 'version unknown'}, sha256 {found.get('sha256', '')[:12]}",
        arch=elf_arch(_bytes(found.get("head", ""))),
    )


def _bytes(dump: str) -> bytes:
    try:
        return bytes.fromhex(dump)
    except ValueError:
        return b""


def samples(text: str) -> list[Sample]:
    """Read what MEASURE's watcher wrote; a field the board does not tell is empty, a line cut short is left out."""
    rows = (line.split("|") for line in text.splitlines())
    return [sample for row in rows if len(row) == 7 and (sample := _sample(row)) is not None]


def _sample(row: list[str]) -> Sample | None:
    epoch_s, temperature, clock, load, available, throttled, governor = row
    try:
        return Sample(
            at=datetime.fromtimestamp(int(epoch_s), UTC),
            temperature_c=int(temperature) / 1000 if temperature else None,
            clock_mhz=int(clock) / 1000 if clock else None,
            load_1min=float(load) if load else None,
            available_ram_bytes=int(available) * 1024 if available else None,
            throttled_bits=int(throttled.rpartition("=")[2], 16) if throttled else None,
            governor=governor or None,
        )
    except (ValueError, OverflowError, OSError):
        return None
