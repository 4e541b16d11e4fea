"""The failures of services outside of this machine; the whole tree is drawn, and imported from, errors.py."""

from __future__ import annotations

from core.error_root import EdgekilnError


class ServiceError(EdgekilnError):
    """A service outside this machine failed."""

    code = "service"
    exit_status = 6
    retryable = True


class TeacherFailed(ServiceError):
    """The teacher could not answer."""

    code = "service-teacher"


class TeacherRefused(TeacherFailed):
    """The teacher's endpoint refuses the key, does not know the model, or its account is empty."""

    code = "service-teacher-refused"
    retryable = False


class BoardUnreachable(ServiceError):
    """The board cannot be reached or used over SSH."""

    code = "service-board"


class RemoteFailed(ServiceError):
    """The object store failed in a way that has no code of its own."""

    code = "service-remote"


class RemoteUnreachable(RemoteFailed):
    """No connection to the object store opens, or it breaks."""

    code = "service-remote-unreachable"


class RemoteSlow(RemoteFailed):
    """The object store does not answer in time, or asks to be asked less."""

    code = "service-remote-slow"


class RemoteCorrupt(RemoteFailed):
    """What the object store took in or gave out is not what was sent."""

    code = "service-remote-corrupt"


class RemoteNoCredentials(RemoteFailed):
    """No key for the object store was found, or only half of one."""

    code = "service-remote-no-credentials"
    retryable = False


class RemoteRefused(RemoteFailed):
    """The object store refuses the key, or what the key asks for."""

    code = "service-remote-refused"
    retryable = False


class RemoteNoBucket(RemoteFailed):
    """There is no bucket of that name."""

    code = "service-remote-no-bucket"
    retryable = False


class RemoteWrongRegion(RemoteFailed):
    """The bucket lies in another region than the one that was asked."""

    code = "service-remote-wrong-region"
    retryable = False


class RemoteClockSkew(RemoteFailed):
    """This machine's clock is too far from the object store's."""

    code = "service-remote-clock"
    retryable = False


class RemoteUnconditional(RemoteFailed):
    """The object store does not keep to the conditions of a conditional write."""

    code = "service-remote-unconditional"
    retryable = False


class RemoteDiffers(RemoteFailed):
    """Something else lies in the object store under a name that is written only once."""

    code = "service-remote-differs"
    retryable = False


class RemoteLocked(RemoteFailed):
    """Another machine holds the lock in the object store."""

    code = "service-remote-locked"


class RemoteLockLost(RemoteFailed):
    """The lock in the object store expired, or another machine took it."""

    code = "service-remote-lock-lost"
    retryable = False


class HubFailed(ServiceError):
    """The Hugging Face hub failed in a way that has no code of its own."""

    code = "service-hub"


class HubUnreachable(HubFailed):
    """No connection to the hub opens, or it breaks."""

    code = "service-hub-unreachable"


class HubSlow(HubFailed):
    """The hub does not answer in time, or asks to be asked less."""

    code = "service-hub-slow"


class HubRefused(HubFailed):
    """The hub refuses the token, or what the token asks for."""

    code = "service-hub-refused"
    retryable = False


class HubGated(HubFailed):
    """The hub gives a repository only to those who accepted its terms."""

    code = "service-hub-gated"
    retryable = False


class HubMissing(HubFailed):
    """The hub has no such repository, or does not show it to this token."""

    code = "service-hub-missing"
    retryable = False


class HubNoRevision(HubFailed):
    """The repository has no such branch, tag or commit."""

    code = "service-hub-no-revision"
    retryable = False


class HubFull(HubFailed):
    """The hub has no space left for what is sent."""

    code = "service-hub-full"
    retryable = False


class HubMoved(HubFailed):
    """The branch was changed by somebody else meanwhile."""

    code = "service-hub-moved"


class HubCorrupt(HubFailed):
    """What the hub holds or gave is not what was sent or promised."""

    code = "service-hub-corrupt"
