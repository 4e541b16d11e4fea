"""The failure tree: every error edgekiln raises on purpose, cut by who must act and whether a retry helps.

EdgekilnError                 1   other
|- ConfigError                2   the configuration or the command line
|  |- UnknownProfile, BadConfig, UsageError
|- DataError                  3   the user's data
|  |- SourceMissing, SourceEmpty, NotUtf8, BrokenRecord, NoRowsLeft, CardMismatch, DecisionRefused
|- EnvironmentFault           4   the machine
|  |- ToolMissing, ToolchainFailed, DownloadCorrupt, DiskFull, WorkspaceUnwritable, WorkspaceLocked, BlockedByCheck,
|  |- DatabaseNewer, RepairFailed, OutOfMemory, GpuFault
|- GateRefused                5   a gate or a regression said no
|- ServiceError               6   an outside service (retryable)
|  |- BoardUnreachable
|  |- TeacherFailed: TeacherRefused (not retryable)
|  |- RemoteFailed: RemoteUnreachable, RemoteSlow, RemoteCorrupt, RemoteNoCredentials, RemoteRefused, RemoteNoBucket,
|  |  RemoteWrongRegion, RemoteClockSkew, RemoteUnconditional, RemoteDiffers, RemoteLocked, RemoteLockLost
|  |- HubFailed: HubUnreachable, HubSlow, HubRefused, HubGated, HubMissing, HubNoRevision, HubFull, HubMoved, HubCorrupt
|- BudgetReached              7   a budget stopped the work
|- TrainingDiverged           1   a training went wrong and could not be mended
|- ArtifactError              1   what lies in the workspace
|  |- ArtifactMissing, ManifestBroken, FileTampered, PathEscapes, DatabaseBroken
|- ProcessFailed              1   a program ended badly or overran its time
|- Evicted                   75   the machine is being taken away
|- Interrupted              130   Ctrl-C
|- Terminated               143   SIGTERM
"""

from __future__ import annotations

from core.error_root import EdgekilnError as EdgekilnError  # noqa: PLC0414 - the whole tree is imported from here
from core.service_errors import BoardUnreachable as BoardUnreachable  # noqa: PLC0414
from core.service_errors import HubCorrupt as HubCorrupt  # noqa: PLC0414
from core.service_errors import HubFailed as HubFailed  # noqa: PLC0414
from core.service_errors import HubFull as HubFull  # noqa: PLC0414
from core.service_errors import HubGated as HubGated  # noqa: PLC0414
from core.service_errors import HubMissing as HubMissing  # noqa: PLC0414
from core.service_errors import HubMoved as HubMoved  # noqa: PLC0414
from core.service_errors import HubNoRevision as HubNoRevision  # noqa: PLC0414
from core.service_errors import HubRefused as HubRefused  # noqa: PLC0414
from core.service_errors import HubSlow as HubSlow  # noqa: PLC0414
from core.service_errors import HubUnreachable as HubUnreachable  # noqa: PLC0414
from core.service_errors import RemoteClockSkew as RemoteClockSkew  # noqa: PLC0414
from core.service_errors import RemoteCorrupt as RemoteCorrupt  # noqa: PLC0414
from core.service_errors import RemoteDiffers as RemoteDiffers  # noqa: PLC0414
from core.service_errors import RemoteFailed as RemoteFailed  # noqa: PLC0414
from core.service_errors import RemoteLocked as RemoteLocked  # noqa: PLC0414
from core.service_errors import RemoteLockLost as RemoteLockLost  # noqa: PLC0414
from core.service_errors import RemoteNoBucket as RemoteNoBucket  # noqa: PLC0414
from core.service_errors import RemoteNoCredentials as RemoteNoCredentials  # noqa: PLC0414
from core.service_errors import RemoteRefused as RemoteRefused  # noqa: PLC0414
from core.service_errors import RemoteSlow as RemoteSlow  # noqa: PLC0414
from core.service_errors import RemoteUnconditional as RemoteUnconditional  # noqa: PLC0414
from core.service_errors import RemoteUnreachable as RemoteUnreachable  # noqa: PLC0414
from core.service_errors import RemoteWrongRegion as RemoteWrongRegion  # noqa: PLC0414
from core.service_errors import ServiceError as ServiceError  # noqa: PLC0414
from core.service_errors import TeacherFailed as TeacherFailed  # noqa: PLC0414
from core.service_errors import TeacherRefused as TeacherRefused  # noqa: PLC0414


class ConfigError(EdgekilnError):
    """The configuration or the command line is wrong."""

    code = "config"
    exit_status = 2


class UnknownProfile(ConfigError):
    """No profile of that name is shipped and no file lies at that path."""

    code = "config-unknown-profile"


class BadConfig(ConfigError):
    """One or more keys are unknown or have values out of range; all are named."""

    code = "config-bad-value"


class UsageError(ConfigError):
    """A command was called with arguments that cannot be used together."""

    code = "usage"


class DataError(EdgekilnError):
    """The user's data cannot be used as it is."""

    code = "data"
    exit_status = 3


class SourceMissing(DataError):
    """A dataset path does not exist or cannot be read."""

    code = "data-missing"


class SourceEmpty(DataError):
    """A dataset holds no record."""

    code = "data-empty"


class NotUtf8(DataError):
    """A dataset is not UTF-8 text."""

    code = "data-not-utf8"


class BrokenRecord(DataError):
    """A record cannot be parsed or lacks what its shape needs."""

    code = "data-broken-record"


class NoRowsLeft(DataError):
    """Too few records are left after the bad ones were set aside."""

    code = "data-no-rows-left"


class CardMismatch(DataError):
    """A dataset card does not say what its data is."""

    code = "data-card-mismatch"


class DecisionRefused(DataError):
    """A reviewed row cannot be kept or changed as it was decided; nothing was taken in."""

    code = "data-decision-refused"


class EnvironmentFault(EdgekilnError):
    """The machine lacks something the job needs."""

    code = "environment"
    exit_status = 4


class ToolMissing(EnvironmentFault):
    """A program, package or library that is needed is not installed."""

    code = "env-tool-missing"


class ToolchainFailed(EnvironmentFault):
    """llama.cpp could not be built here."""

    code = "env-toolchain"


class DownloadCorrupt(EnvironmentFault):
    """A downloaded archive does not have the pinned hash."""

    code = "env-download-corrupt"


class DiskFull(EnvironmentFault):
    """There is not enough space left where something must be written."""

    code = "env-disk-full"


class WorkspaceUnwritable(EnvironmentFault):
    """The workspace folder cannot be created or written."""

    code = "env-workspace-unwritable"


class WorkspaceLocked(EnvironmentFault):
    """Another run holds the workspace."""

    code = "env-workspace-locked"
    retryable = True


class BlockedByCheck(EnvironmentFault):
    """An environment check that blocks the job has failed."""

    code = "env-blocked"


class DatabaseNewer(EnvironmentFault):
    """The database was written by a newer edgekiln than the one installed."""

    code = "env-database-newer"


class RepairFailed(EnvironmentFault):
    """An installation could not be mended or put back; the snapshot taken before is kept."""

    code = "env-repair"


class OutOfMemory(EnvironmentFault):
    """A training does not fit into the memory there is, not with the smallest micro-batch either."""

    code = "env-out-of-memory"


class GpuFault(EnvironmentFault):
    """The GPU or its driver failed; the newest verified checkpoint is kept."""

    code = "env-gpu-fault"


class GateRefused(EdgekilnError):
    """A gate's limit was not met, so nothing is promoted."""

    code = "gate-refused"
    exit_status = 5


class BudgetReached(EdgekilnError):
    """A budget set in the configuration is used up; the work done so far is kept."""

    code = "budget"
    exit_status = 7


class TrainingDiverged(EdgekilnError):
    """Training went wrong and could not be put right."""

    code = "train-diverged"


class ArtifactError(EdgekilnError):
    """Something in the workspace is not as its manifest says."""

    code = "artifact"


class ArtifactMissing(ArtifactError):
    """No artifact or run of that name lies in the workspace."""

    code = "artifact-missing"


class ManifestBroken(ArtifactError):
    """A manifest cannot be read or contradicts itself."""

    code = "artifact-manifest-broken"


class FileTampered(ArtifactError):
    """A file's size or hash is not the one in its manifest."""

    code = "artifact-file-tampered"


class PathEscapes(ArtifactError):
    """A path leads out of the folder it must stay in."""

    code = "artifact-path-escapes"


class DatabaseBroken(ArtifactError):
    """The database cannot be read, or does not hold what its artifacts say."""

    code = "artifact-database-broken"


class ProcessFailed(EdgekilnError):
    """A program ended with an error or overran its time."""

    code = "process-failed"


class Evicted(EdgekilnError):
    """The machine is being taken away; the run goes on elsewhere."""

    code = "evicted"
    exit_status = 75
    retryable = True


class Interrupted(EdgekilnError):
    """Ctrl-C; the same command goes on where this one stopped."""

    code = "interrupted"
    exit_status = 130


class Terminated(EdgekilnError):
    """SIGTERM; the same command goes on where this one stopped."""

    code = "terminated"
    exit_status = 143


def every_error() -> list[type[EdgekilnError]]:
    """Return the whole tree, root first."""
    found: list[type[EdgekilnError]] = [EdgekilnError]
    for kind in found:
        found.extend(kind.__subclasses__())
    return found
