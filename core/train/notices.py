"""What AWS, GCP and Azure say before they take a machine away: paths, headers, intervals, meanings. Who polls is not here.

Sources: EC2 user guide "Spot Instance interruption notices" and "EC2 instance rebalance recommendations"; Compute Engine
"Create and use Spot VMs" and "Query the metadata server for maintenance event notices"; Azure "Scheduled Events for Linux
VMs", version 2020-07-01.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Literal, Protocol
from urllib.parse import quote

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from core.contract import Contract
from core.metadata_service import Answer, MetadataService

# what a question may raise; pydantic's errors are ValueErrors, a date with a number too large is an OverflowError
TROUBLE = (OSError, http.client.HTTPException, ValueError, OverflowError)
_TIMEOUT_S = 2.0
_CLOCKS_APART = timedelta(seconds=5)  # less is as likely the whole seconds of a header and the answer's way

Kind = Literal["sigterm", "terminate", "stop", "hibernate", "preempt", "maintenance", "reboot", "redeploy", "rebalance"]


class Notice(Contract):
    """That the machine or the process will end: who said so, when it was first heard, by when, in what way.

    A `rebalance` only says that an end has become likely, and has no deadline.
    """

    source: Literal["SIGTERM", "AWS", "GCP", "Azure"]
    at: AwareDatetime
    deadline: AwareDatetime | None
    kind: Kind

    @property
    def leaves(self) -> bool:
        """Say whether the process must go, not only save."""
        return self.kind != "rebalance"


Question = Callable[[MetadataService], Notice | None]


class Source(Protocol):
    """A cloud. A question returns None when the cloud says there is no notice, and raises TROUBLE when it says nothing."""

    interval_s: float
    questions: tuple[Question, ...]

    def acknowledge(self, service: MetadataService) -> bool:
        """Tell the cloud that the machine may go; False where it does not want to know."""


class _Told(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _FirstHeard:
    """The time at which what is told now was first told."""

    def __init__(self) -> None:
        self._told: str | None = None
        self._at = datetime.now(UTC)

    def of(self, told: str) -> datetime:
        if told != self._told:
            self._told, self._at = told, datetime.now(UTC)
        return self._at


def _require(answer: Answer, path: str) -> str:
    if answer.status != http.HTTPStatus.OK:
        raise ValueError(f"{path}: status {answer.status}")
    return answer.text


def _by_our_clock(moment: datetime, answer: Answer) -> datetime:
    """Return a time that a cloud names by this machine's clock, which may be minutes wrong; its answer says what time it is."""
    try:
        apart = datetime.now(UTC) - parsedate_to_datetime(answer.headers["date"])
    except (KeyError, ValueError, TypeError):
        return moment
    return moment + apart if abs(apart) > _CLOCKS_APART else moment


class _InstanceAction(_Told):
    action: str
    time: AwareDatetime


class _Rebalance(_Told):
    notice_time: AwareDatetime = Field(alias="noticeTime")


class Aws:
    """EC2 by IMDSv2: a token by PUT, renewed when it is refused; 404 is no notice."""

    interval_s = 5.0  # what AWS recommends
    _TOKEN_TTL_S = 21_600

    def __init__(self) -> None:
        self.questions: tuple[Question, ...] = (self._action, self._rebalance)
        self._token = ""
        self._heard = (_FirstHeard(), _FirstHeard())

    def acknowledge(self, service: MetadataService) -> bool:
        """Do nothing: EC2 asks for no answer."""
        del service
        return False

    def _action(self, service: MetadataService) -> Notice | None:
        answer = self._read(service, "/latest/meta-data/spot/instance-action")
        if answer is None:
            return None
        told = _InstanceAction.model_validate_json(answer.text)
        at = self._heard[0].of(answer.text)
        kinds: dict[str, Kind] = {"stop": "stop", "hibernate": "hibernate"}
        kind = kinds.get(told.action, "terminate")
        # hibernation begins with its notice, whatever time that names
        deadline = at if kind == "hibernate" else _by_our_clock(told.time, answer)
        return Notice(source="AWS", at=at, deadline=deadline, kind=kind)

    def _rebalance(self, service: MetadataService) -> Notice | None:
        answer = self._read(service, "/latest/meta-data/events/recommendations/rebalance")
        if answer is None:
            return None
        _Rebalance.model_validate_json(answer.text)
        return Notice(source="AWS", at=self._heard[1].of(answer.text), deadline=None, kind="rebalance")

    def _read(self, service: MetadataService, path: str) -> Answer | None:
        answer = self._get(service, path)
        if answer.status == http.HTTPStatus.UNAUTHORIZED:
            self._token = ""
            answer = self._get(service, path)
        if answer.status == http.HTTPStatus.NOT_FOUND:
            return None
        _require(answer, path)
        return answer

    def _get(self, service: MetadataService, path: str) -> Answer:
        if not self._token:
            wish = {"X-aws-ec2-metadata-token-ttl-seconds": str(self._TOKEN_TTL_S)}
            token_path = "/latest/api/token"  # noqa: S105 - a path
            self._token = _require(service.ask("PUT", token_path, wish, timeout_s=_TIMEOUT_S), token_path)
        return service.ask("GET", path, {"X-aws-ec2-metadata-token": self._token}, timeout_s=_TIMEOUT_S)


class Gcp:
    """Compute Engine. `preempted` is held open until it changes; `maintenance-event` is asked in between.

    A machine that is migrated live goes on, so that only a maintenance that terminates is a notice; having asked for it is
    what makes Compute Engine wait 60 s. With a GPU it waits an hour and says so nowhere in this key: 60 s are assumed.
    """

    interval_s = 1.0  # between two held requests
    _HELD_S = 5
    _PREEMPTED_S = 30
    _MAINTENANCE_S = 60

    def __init__(self) -> None:
        self.questions: tuple[Question, ...] = (self._maintenance, self._preempted)
        self._etag = ""
        self._heard = (_FirstHeard(), _FirstHeard())

    def acknowledge(self, service: MetadataService) -> bool:
        """Do nothing: Compute Engine asks for no answer."""
        del service
        return False

    def _maintenance(self, service: MetadataService) -> Notice | None:
        answer = self._get(service, "instance/maintenance-event", _TIMEOUT_S)
        at = self._heard[0].of(answer.text.strip())
        if answer.text.strip() != "TERMINATE_ON_HOST_MAINTENANCE":
            return None
        deadline = at + timedelta(seconds=self._MAINTENANCE_S)
        return Notice(source="GCP", at=at, deadline=deadline, kind="maintenance")

    def _preempted(self, service: MetadataService) -> Notice | None:
        held = f"?wait_for_change=true&timeout_sec={self._HELD_S}&last_etag={quote(self._etag)}" if self._etag else ""
        answer = self._get(service, f"instance/preempted{held}", _TIMEOUT_S + (self._HELD_S if held else 0))
        told = answer.text.strip()
        if told not in {"TRUE", "FALSE"}:
            raise ValueError(f"instance/preempted: {told[:40]!r} is neither TRUE nor FALSE")
        self._etag = answer.headers.get("etag", "")
        at = self._heard[1].of(told)
        if told == "FALSE":
            return None
        return Notice(source="GCP", at=at, deadline=at + timedelta(seconds=self._PREEMPTED_S), kind="preempt")

    @staticmethod
    def _get(service: MetadataService, key: str, timeout_s: float) -> Answer:
        path = f"/computeMetadata/v1/{key}"
        answer = service.ask("GET", path, {"Metadata-Flavor": "Google"}, timeout_s=timeout_s)
        _require(answer, path)
        if answer.headers.get("metadata-flavor") != "Google":
            raise ValueError(f"{path}: not answered by Compute Engine's own service")
        return answer


class _Event(_Told):
    identifier: str = Field(alias="EventId")
    type: str = Field(alias="EventType")
    status: str = Field(alias="EventStatus", default="")
    resources: tuple[str, ...] = Field(alias="Resources", default=())
    not_before: str = Field(alias="NotBefore", default="")


class _Events(_Told):
    events: tuple[_Event, ...] = Field(alias="Events")


class Azure:
    """Azure's scheduled events of this machine; one that is no longer listed was withdrawn.

    Every machine of a scale set is told of all its machines' events, so an event counts where it names this one. While the
    machine's own name cannot be read every event counts: leaving for a sibling costs a restart, staying costs the work.
    """

    interval_s = 1.0  # of the 30 s that an eviction is told before, little may be lost
    _EVENTS = "/metadata/scheduledevents?api-version=2020-07-01"
    _NAME = "/metadata/instance/compute/name?api-version=2021-02-01&format=text"
    _HEADERS = {"Metadata": "true"}
    _FIRST_S = 125.0  # the first request switches the service on, which takes up to two minutes
    _KINDS: dict[str, Kind] = {"Preempt": "preempt", "Terminate": "terminate", "Reboot": "reboot", "Redeploy": "redeploy"}

    def __init__(self) -> None:
        self.questions: tuple[Question, ...] = (self._scheduled,)
        self._name: str | None = None
        self._answered = False
        self._ours_alone: str | None = None
        self._heard = _FirstHeard()

    def acknowledge(self, service: MetadataService) -> bool:
        """Approve the event, so that Azure need not wait; not one that names other machines, for it would start theirs."""
        if (event := self._ours_alone) is None:
            return False
        body = json.dumps({"StartRequests": [{"EventId": event}]}).encode()
        headers = {**self._HEADERS, "Content-Type": "application/json"}
        _require(service.ask("POST", self._EVENTS, headers, timeout_s=_TIMEOUT_S, body=body), self._EVENTS)
        return True

    def _scheduled(self, service: MetadataService) -> Notice | None:
        timeout_s = _TIMEOUT_S if self._answered else self._FIRST_S
        answer = service.ask("GET", self._EVENTS, self._HEADERS, timeout_s=timeout_s)
        text = _require(answer, self._EVENTS)
        self._answered = True
        listed = [event for event in _Events.model_validate_json(text).events if event.type in self._KINDS]
        ours = self._ours(listed, service)
        if not ours:
            self._ours_alone = None
            return None
        event = min(ours, key=_begins)
        alone = len(event.resources) == 1 and self._name is not None
        self._ours_alone = event.identifier if alone else None
        at = self._heard.of(f"{event.identifier} {event.status}")
        has_begun = event.status == "Started" or not event.not_before
        deadline = at if has_begun else max(at, _by_our_clock(_begins(event), answer))
        return Notice(source="Azure", at=at, deadline=deadline, kind=self._KINDS[event.type])

    def _ours(self, events: Iterable[_Event], service: MetadataService) -> list[_Event]:
        found = list(events)
        if found and self._name is None:
            self._name = self._read_name(service)
        if self._name is None:
            return found
        own = self._name.casefold()
        return [event for event in found if own in {name.casefold() for name in event.resources}]

    def _read_name(self, service: MetadataService) -> str | None:
        try:
            name = _require(service.ask("GET", self._NAME, self._HEADERS, timeout_s=_TIMEOUT_S), self._NAME).strip()
        except TROUBLE:
            return None
        return name or None


def _begins(event: _Event) -> datetime:
    """Return when an event may begin; one that has begun names no time."""
    if not event.not_before:
        return datetime.min.replace(tzinfo=UTC)
    moment = parsedate_to_datetime(event.not_before)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


SOURCES: dict[str, Callable[[], Source]] = {"AWS": Aws, "GCP": Gcp, "Azure": Azure}
