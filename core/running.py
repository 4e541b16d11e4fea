"""One run from its first line to its last: its record, its events file, its alerts, and who listens. No orchestration."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from types import TracebackType

from core.alerts.send import alert
from core.config import Profile
from core.contract import Stage
from core.errors import EdgekilnError, Evicted, Interrupted, Terminated
from core.events import Event, OnEvent, Paused, RunFailed, RunFinished, RunStarted, StageFinished, StageReused, ignore, tee
from core.runs import RunRecord, RunStatus, as_killed, runs, write_run
from core.sinks import EventsFile, hide, hiding, log, secret_names
from core.stopping import stop_of
from core.workspace import Workspace

_STOPPED = (KeyboardInterrupt, Interrupted, Terminated, Evicted)
_AGAIN = "Start the same command again; it goes on where this one stopped."


class Recorder:
    """Keeps a run's record in step with its events; each finished stage is written at once."""

    def __init__(self, workspace: Workspace, record: RunRecord) -> None:
        self.workspace = workspace
        self.record = record
        self._began = time.perf_counter()
        write_run(workspace, record)

    def __call__(self, event: Event) -> None:
        """Note what a stage gave."""
        if isinstance(event, StageFinished | StageReused):
            reused = (event.stage,) if isinstance(event, StageReused) else ()
            self._change(
                artifacts={**self.record.artifacts, event.stage: event.artifact_id},
                reused=tuple(dict.fromkeys((*self.record.reused, *reused))),
            )

    def finish(self, status: RunStatus, error: str | None = None) -> None:
        """Close the record."""
        self._change(status=status, error=error, finished_at=datetime.now(UTC))

    def summary(self) -> str:
        """Return what came of the run in one line."""
        record, seconds = self.record, time.perf_counter() - self._began
        found = record.artifacts.get(Stage.SEARCH)
        came = f"search {found}" if found else f"model {record.artifacts.get(Stage.EXPORT, 'none')}"
        return f"{len(record.artifacts)} stages in {seconds:.0f} s, {len(record.reused)} of them reused; {came}"

    def _change(self, **fields: object) -> None:
        self.record = RunRecord.model_validate({**self.record.model_dump(), **fields})
        write_run(self.workspace, self.record)


class Recorded:
    """A block whose end, whatever it is, is written down, told, and raised on; it yields the sink for events.

    Needs the workspace's lock: a record that still says `running` is then known to be of a killed run.
    """

    def __init__(
        self,
        workspace: Workspace,
        profile: Profile,
        run_id: str,
        listener: OnEvent = ignore,
        started_with: str | None = None,
    ) -> None:
        self._profile = profile
        self._started_with = started_with
        self._run_id = run_id
        self._workspace = workspace
        self._listener = listener

    def __enter__(self) -> OnEvent:
        """Open the run's record and its events file."""
        close_killed(self._workspace)
        self.recorder = Recorder(self._workspace, _first_record(self._profile, self._run_id, self._started_with))
        self._file = EventsFile(self._workspace.run_folder(self._run_id) / "events.jsonl")
        sinks = tee(self._file, self.recorder, log, self._listener, self._tell_midway)
        self._on_event = hiding(secret_names(self._profile), sinks)
        self._on_event(RunStarted(run_id=self._run_id, profile=self._profile.name))
        return self._on_event

    def _tell_midway(self, event: Event) -> None:
        if isinstance(event, Paused):
            alert(event, self._profile.alerts, self._on_event)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the record and tell the alert channels."""
        with self._file:
            if error is None:
                _finish(self.recorder, self._profile, self._on_event)
            else:
                _fail(self.recorder, self._profile, error, self._on_event)


def _first_record(profile: Profile, run_id: str, started_with: str | None) -> RunRecord:
    return RunRecord(
        run_id=run_id,
        profile=profile.name,
        started_with=started_with,
        config=profile.model_dump(mode="json"),
        started_at=datetime.now(UTC),
        status=RunStatus.RUNNING,
    )


def close_killed(workspace: Workspace) -> None:
    """Mark the records of runs that were killed as interrupted."""
    for record in runs(workspace):
        if (killed := as_killed(record)) is not record:
            write_run(workspace, killed)


def _finish(recorder: Recorder, profile: Profile, on_event: OnEvent) -> None:
    recorder.finish(RunStatus.FINISHED)
    told = RunFinished(run_id=recorder.record.run_id, profile=profile.name, summary=recorder.summary())
    on_event(told)
    alert(told, profile.alerts, on_event)


def _fail(recorder: Recorder, profile: Profile, error: BaseException, on_event: OnEvent) -> None:
    text = hide(_text(error), secret_names(profile))
    # whoever pressed Ctrl-C or took the machine away knows it; only a failure is worth an alert
    if isinstance(error, _STOPPED) or not isinstance(error, Exception):
        recorder.finish(RunStatus.INTERRUPTED, text)
        return
    recorder.finish(RunStatus.FAILED, text)
    code = error.code if isinstance(error, EdgekilnError) else type(error).__name__
    told = RunFailed(run_id=recorder.record.run_id, profile=profile.name, code=code, error=text)
    on_event(told)
    alert(told, profile.alerts, on_event)


def _text(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"[interrupted] the program was told to exit with status {error.code}\nFix: {_AGAIN}"
    return str(stop_of(error, _AGAIN) or error) or type(error).__name__
