"""One section model a stage (the large ones lie in their rooms), the profile that joins them, and reading both.

Model, device and preset files are read in catalogue.py. This is the only core module that reads environment variables.
"""

from __future__ import annotations

import contextlib
import difflib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from core.contract import Contract, Limit
from core.data.limits import CoverageLimits, DuplicateLimits, PrivacyLimits, QualityWeights, RuleLimits
from core.errors import BadConfig, EnvironmentFault, ToolMissing, UnknownProfile
from core.export.section import ExportConfig as ExportConfig  # noqa: PLC0414  # a section like the others
from core.field_types import ProfileName, VariableName
from core.label.section import LabelConfig as LabelConfig  # noqa: PLC0414  # a section like the others
from core.mistakes import describe, shortened
from core.publish.section import PublishConfig
from core.remote.settings import RemoteConfig
from core.search.section import SearchConfig as SearchConfig  # noqa: PLC0414  # a section like the others
from core.section import Operational, Section
from core.train import presets
from core.train.section import LoraConfig as LoraConfig  # noqa: PLC0414  # sections like the others
from core.train.section import TrainConfig as TrainConfig  # noqa: PLC0414
from core.yaml_file import parse_yaml, read_yaml

_MAX_SEED = 2**32 - 1  # what numpy takes
_MAX_AGE_S = 1e9


class EnvConfig(Section):
    """What the machine must have."""

    max_age_s: Annotated[float, Operational] = Field(
        default=3600.0, ge=0, le=_MAX_AGE_S, description="Reuse a report younger than this"
    )
    min_free_disk_gb: float = Field(default=3.0, ge=0, description="Free space the workspace needs")
    min_ram_gb: float = Field(default=3.0, ge=0, description="RAM the job needs, cgroup limit counted")
    needs_cuda: bool = Field(default=False, description="Stop when no CUDA GPU is usable")
    min_write_mbs: float = Field(default=20.0, ge=0, description="Warn when the workspace is written slower, in MB/s")
    min_memory_gbs: float = Field(default=2.0, ge=0, description="Warn of a lower memory bandwidth (triad), in GB/s")
    min_board_free_disk_gb: float = Field(default=1.0, ge=0, description="Free space a board needs for the models")
    min_board_ram_gb: float = Field(default=0.9, ge=0, description="RAM a board needs")
    clock_tolerance_s: float = Field(default=120.0, gt=0, description="Warn of a clock that is further off")
    measure_s: float = Field(default=0.5, gt=0, le=60, description="Time for each measurement of memory and disk")
    probe_timeout_s: Annotated[float, Operational] = Field(default=10.0, gt=0, description="Time one probe may take")
    skip: tuple[str, ...] = Field(default=(), description="Check codes to leave out")


class DataConfig(Section):
    """Where the prompts come from and what is kept."""

    # what is read enters the identity by its bytes: another path or another count of the same bytes redoes nothing
    sources: Annotated[tuple[str, ...], Operational] = Field(
        min_length=1, description="Files of records, folders, globs, hf:owner/dataset, or builtin:python-docs"
    )
    title: str = Field(default="", description="Name on the dataset card; the sources' names when empty")
    about: str = Field(default="", description="What the dataset is, in a few sentences, for its card")
    licence: str | None = Field(default=None, description="The dataset's licence on its card, such as mit or cc-by-4.0")
    shape: Literal["auto", "record", "chat", "alpaca", "sharegpt", "prompt"] = Field(
        default="auto", description="Record format of the sources"
    )
    answers: Literal["optional", "required"] = Field(
        default="optional", description="Whether a row may come without its answer"
    )
    held_out_share: float = Field(default=0.25, gt=0, lt=1, description="Share of rows kept from training")
    evaluation_files: Annotated[tuple[str, ...], Operational] = Field(
        default=(), description="Files that no row may hold passages of"
    )
    token_rules: bool = Field(default=False, description="Judge rows also by the student's template and train.max_length")
    rules: RuleLimits = RuleLimits()
    duplicates: DuplicateLimits = DuplicateLimits()
    coverage: CoverageLimits = CoverageLimits()
    quality: QualityWeights = QualityWeights()
    privacy: PrivacyLimits = PrivacyLimits()
    listed_warnings: int = Field(default=1000, ge=1, description="Warnings of one rule that warnings.jsonl lists at most")
    listed_worst: int = Field(default=200, ge=1, description="Rows of low quality that worst.jsonl lists at most")
    builtin_rows: Annotated[int, Operational] = Field(default=96, ge=8, le=2000, description="Rows of a builtin source")
    min_rows: Annotated[int, Operational] = Field(default=8, ge=2, description="Fewer good rows than this stop the run")
    max_rejected_share: Annotated[float, Operational] = Field(
        default=0.2, ge=0, le=1, description="Share set aside at most"
    )
    max_rejected: Annotated[int | None, Operational] = Field(
        default=None, ge=0, description="Rows set aside at most; none sets no limit beside the share"
    )


class BenchConfig(Section):
    """What is measured, where."""

    device: str = Field(default="local", description="A device of configs/devices")
    n_prompt: int = Field(default=128, ge=1)
    n_gen: int = Field(default=32, ge=1)
    repetitions: int = Field(default=3, ge=1, description="Repetitions in one process start")
    process_starts: int = Field(default=2, ge=1, description="Process starts; the unit of evidence")
    threads: int | None = Field(default=None, ge=1, description="None takes every usable core")
    max_age_s: Annotated[float, Operational] = Field(default=7 * 86_400.0, ge=0, le=_MAX_AGE_S)
    limits: Annotated[tuple[Limit, ...], Operational] = Field(
        default=(), description="Limits on pp_tps.TYPE and tg_tps.TYPE"
    )
    timeout_s: Annotated[float, Operational] = Field(default=1800.0, gt=0)


class IngestConfig(Section):
    """How results enter the database."""

    lock_timeout_s: Annotated[float, Operational] = Field(default=60.0, gt=0)


class AlertConfig(Section):
    """Whom to tell, by the names of the variables that hold Apprise URLs."""

    url_envs: Annotated[tuple[VariableName, ...], Operational] = ()
    timeout_s: Annotated[float, Operational] = Field(default=20.0, gt=0)


class Profile(Contract):
    """A whole job."""

    name: ProfileName
    description: str
    env: EnvConfig = EnvConfig()
    data: DataConfig
    label: LabelConfig
    train: TrainConfig
    export: ExportConfig = ExportConfig()
    bench: BenchConfig = BenchConfig()
    ingest: IngestConfig = IngestConfig()
    alerts: AlertConfig = AlertConfig()
    remote: RemoteConfig = RemoteConfig()
    publish: PublishConfig = PublishConfig()
    search: SearchConfig = SearchConfig()

    @model_validator(mode="after")
    def _trains_what_it_can_export(self) -> Self:
        train, asked = self.train, self.export
        if asked.merge == "dequantised" and train.quantisation == "none":
            raise ValueError(
                "export.merge=dequantised and train.quantisation=none: there are no 4-bit weights to merge onto"
            )
        odd = [name for name in ("use_dora", "use_rslora") if getattr(train.lora, name)]
        if asked.adapter_gguf and odd:
            raise ValueError(f"export.adapter_gguf=true and train.lora.{odd[0]}=true: llama.cpp's file has no place for it")
        return self


def shipped(folder: str) -> Path:
    """Return a folder of the shipped configs, such as `profiles` or `models`."""
    return Path(str(resources.files("configs"))) / folder


def user_folder() -> Path:
    """Return the folder of the user's own profiles, models, presets and devices."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or _home() / ".config") / "edgekiln"


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError as error:
        raise EnvironmentFault(
            "this user has no home folder: neither HOME nor the list of users names one",
            remedy="Set HOME, or name folders: EDGEKILN_CACHE for the cache, XDG_CONFIG_HOME and HF_HOME for the rest.",
        ) from error


def cache_folder() -> Path:
    """Return the user's cache folder: toolchain, default model, probe results; EnvironmentFault for a user without home."""
    named = os.environ.get("EDGEKILN_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or _home() / ".cache") / "edgekiln"


def hf_home() -> Path:
    """Return the folder of the Hugging Face libraries, as huggingface_hub finds it."""
    if named := os.environ.get("HF_HOME"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or _home() / ".cache") / "huggingface"


def hub_cache() -> Path:
    """Return the folder in which huggingface_hub keeps what it fetched."""
    named = os.environ.get("HF_HUB_CACHE")
    return Path(named).expanduser() if named else hf_home() / "hub"


def environment_variables(names: Iterable[str]) -> dict[str, str]:
    """Return those of the named environment variables that are set and not empty."""
    return {name: value for name in names if (value := os.environ.get(name))}


def workspace_root(named: str | Path | None = None) -> Path:
    """Return the workspace's folder: the one named, else EDGEKILN_WORKSPACE, else `.edgekiln` here."""
    return Path(named or os.environ.get("EDGEKILN_WORKSPACE") or ".edgekiln")


def secret(name: str) -> str:
    """Return a secret by the name of its environment variable; ToolMissing when it is not set."""
    value = os.environ.get(name)
    if not value:
        raise ToolMissing(f"the environment variable {name} is not set", remedy=f"Set it: export {name}=...")
    return value


@contextmanager
def patient_openmp() -> Iterator[None]:
    """Let waiting threads of an OpenMP library that is loaded meanwhile sleep soon, unless the user chose otherwise.

    Measured on two cores, 135M, ms a token alone / beside an equal load: libgomp's default 11 / 46, OMP_WAIT_POLICY=PASSIVE
    29 / 19, 300 spins 11 / 26. The library reads this once, when it is loaded; it is taken back so that no benchmark
    inherits it.
    """
    if "OMP_WAIT_POLICY" in os.environ or "GOMP_SPINCOUNT" in os.environ:
        yield
        return
    os.environ["GOMP_SPINCOUNT"] = "300"
    try:
        yield
    finally:
        del os.environ["GOMP_SPINCOUNT"]


def share_of_machine(number: int, processes: int, gpus: int) -> dict[str, str]:
    """Return the variables that give one of so many processes its cores and, where there are several GPUs, one of them.

    What the user set stays: the number of threads, and which GPUs are to be used.
    """
    share: dict[str, str] = {}
    if processes > 1 and "OMP_NUM_THREADS" not in os.environ:
        share["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // processes))
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    visible = [str(index) for index in range(gpus)] if named is None else [one for one in named.split(",") if one]
    if processes > 1 and len(visible) > 1:
        share["CUDA_VISIBLE_DEVICES"] = visible[number % len(visible)]
    return share


def cmake_arguments() -> str:
    """Return the user's CMAKE_ARGS, empty when there are none."""
    return os.environ.get("CMAKE_ARGS", "")


def profile_names() -> list[str]:
    """Return the names of the shipped and the user's profiles, sorted."""
    folders = (shipped("profiles"), user_folder() / "profiles")
    return sorted({path.stem for folder in folders if folder.is_dir() for path in folder.glob("*.yaml")})


def load(profile: str, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Profile:
    """Read a profile by name or path and apply overrides; below both lie the settings of the preset `train.preset` names.

    Overrides are `key.path=value` strings (the value is YAML) or a mapping of dotted keys. UnknownProfile, or BadConfig
    that names every mistake at once.
    """
    path = find_profile(profile)
    tree = read_yaml(path)
    tree.setdefault("name", path.stem)
    problems = [problem for key, value in parse_overrides(overrides) if (problem := _put(tree, key, value))]
    try:
        _put_preset_under(tree)
    except BadConfig as error:
        problems.append(error.problem)
    try:
        loaded = Profile.model_validate(tree)
    except ValidationError as error:
        problems += [describe(detail, _nearest) for detail in error.errors()]
    if problems:
        raise BadConfig(
            f"{path.name}: " + "; ".join(problems),
            remedy="Mend the named keys, in the file or in --set; all keys: edgekiln config schema",
        )
    return loaded


def find_profile(profile: str) -> Path:
    """Return the file of a profile named or given as a path; UnknownProfile when there is none."""
    if profile.endswith((".yaml", ".yml")):
        with contextlib.suppress(OSError):  # a name that is too long
            if (path := Path(profile)).is_file():
                return path
    elif profile in profile_names():
        own = user_folder() / "profiles" / f"{profile}.yaml"
        return own if own.is_file() else shipped("profiles") / f"{profile}.yaml"
    known = profile_names()
    near = difflib.get_close_matches(profile, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}."
    raise UnknownProfile(f"profile {profile!r} is neither shipped nor a YAML file", remedy=f"Name another; {hint}")


def parse_overrides(overrides: Sequence[str] | Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return dotted keys with their values; BadConfig for an entry that is neither `key=value` nor a YAML file of keys."""
    if isinstance(overrides, Mapping):
        return list(overrides.items())
    pairs = []
    for entry in overrides:
        if entry.endswith((".yaml", ".yml")) and "=" not in entry:
            pairs += _of_file(Path(entry))
            continue
        key, sign, value = entry.partition("=")
        if not sign or not all(part.strip() for part in key.split(".")):
            raise BadConfig(f"override {shortened(entry)!r} is not key=value", remedy="Write --set train.lora.r=32")
        try:
            pairs.append((key.strip(), parse_yaml(value)))
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise BadConfig(f"override {shortened(entry)!r}: the value is not YAML", remedy="Quote the value.") from error
    return pairs


def _of_file(path: Path) -> list[tuple[str, Any]]:
    if not path.is_file():
        raise BadConfig(f"override {shortened(str(path))!r} is no file", remedy="Name a YAML file with keys of a profile.")
    return list(_leaves(read_yaml(path), ""))


def _leaves(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _put(tree: dict[str, Any], dotted: str, value: Any) -> str | None:
    node, (*parents, last) = tree, dotted.split(".")
    for part in parents:
        child = node.setdefault(part, {})
        if not isinstance(child, dict):
            return f"{dotted}: {part} is a value, not a section"
        node = child
    node[last] = value
    return None


def preset_folders() -> tuple[Path, ...]:
    """Return the folders of the shipped and the user's own presets; the latter's count."""
    return shipped("presets"), user_folder() / "presets"


def _put_preset_under(tree: dict[str, Any]) -> None:
    """Lay the preset that `train.preset` names under the profile's own settings; `auto` becomes this machine's."""
    train = tree.get("train")
    if not isinstance(train, dict) or not isinstance(asked := train.get("preset"), str):
        return
    if asked == presets.AUTO:
        from core.env.presets import for_this_machine  # it reads the folders above

        preset = for_this_machine(str(train.get("device", "auto")))
    else:
        preset = presets.named(asked, preset_folders())
    tree["train"] = {**presets.under(train, preset.train), "preset": preset.name}


def _nearest(key: str) -> str:
    near = difflib.get_close_matches(key, known_keys(), n=1, cutoff=0.5)
    return f", did you mean {near[0]}?" if near else ""


def known_keys() -> list[str]:
    """Return every dotted key of a profile."""
    return list(_walk(Profile, ""))


def _walk(model: type[BaseModel], prefix: str) -> Iterable[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        kinds = (field.annotation, *get_args(field.annotation))
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, Section):
                yield from _walk(kind, f"{prefix}{name}.")


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a profile."""
    return Profile.model_json_schema()
