"""Every error that a user of the system can meet, and who does what next.

EfficientRecError
  SettingInvalid          a setting cannot be served: change the variable that the message names
  InteractionInvalid      one event cannot be used: it goes to the dead letters with this reason
  RecordInvalid           a record of the catalogue, a profile, a list or a release cannot be used: correct its producer
  RowUnreadable           a stored row is damaged or from a newer release: run that, or rebuild from the changelog
  ArtifactError
    ArtifactCorrupt       a checksum differs or a file is missing: publish the artifact again
    ArtifactUnavailable   a file cannot be read now: it is tried again; see to the store
    ArtifactMismatch      shapes or vocabulary do not fit: train with this release
  ReleaseUntrusted        a release is not the trainer's, or an old one again: see who writes to the releases topic
  ModelUnknown            no such model is on the shelf: the message names those that are
  DataInvalid             a data set lacks what is needed: the message names file, line or column
  TrainingDiverged        a loss is not finite: lower the learning rate
  TrainingImpossible      too little to learn from: wait for more interactions
  EvaluationLeaks         a split or a list gives away what is asked for: a bug; its figures must not be used
  TopicMismatch           a topic is missing or made otherwise than needed: the message says what to change
  SourceTruncated         profiles know of more events than their topic has: restore it, or start under a new group
  WorkersEnded            one of several workers did not survive its first start: its own log says why
  BrokerUnavailable       the broker cannot be reached or would not start: the message names its address
  BrokerRefused           the broker does not let us in, or do what we need, or is not who it should be: correct the
                          settings, its certificate or its ACLs, which the message names
  StateMismatch           a folder holds another changelog's rows: choose another state folder, or move it away
  StateCorrupt            rows on disk were damaged and are set aside: start the worker again, it rebuilds them
  StateUnwritable         the disk is full or takes no writes: free space or choose another state folder, start again
  ErasureUnfinished       a user is not erased everywhere yet: start what the message names, and it will be
"""


class EfficientRecError(Exception):
    """The root: catch this to catch all of ours."""


class SettingInvalid(EfficientRecError):
    """Names the variable, its value and what was expected."""


class InteractionInvalid(EfficientRecError):
    """One event that cannot be used. `reason` is a short word for counters, the message a sentence for people."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class RecordInvalid(EfficientRecError):
    """A record that is not what its topic promises. The message names the field; whoever reads goes on without it."""


class RowUnreadable(EfficientRecError):
    """A stored row that this release cannot read."""


class ArtifactError(EfficientRecError):
    """An artifact that cannot be served; the old model stays."""


class ArtifactCorrupt(ArtifactError):
    """The bytes are not those that were published."""


class ArtifactUnavailable(ArtifactCorrupt):
    """A file of the artifact is missing, or its store does not answer; another try may succeed."""


class ArtifactMismatch(ArtifactError):
    """The parts do not fit each other or this release."""


class ReleaseUntrusted(EfficientRecError):
    """A release without the signature that is asked for, or one that was overtaken already; the old model stays."""


class ModelUnknown(EfficientRecError):
    """A model version that is asked for and not there, or is in service already."""


class DataInvalid(EfficientRecError):
    """A data set that cannot be read; names file and column."""


class TrainingDiverged(EfficientRecError):
    """A loss stopped being finite."""


class TrainingImpossible(EfficientRecError):
    """Too little to learn from."""


class EvaluationLeaks(EfficientRecError):
    """What is asked for can be read off what was given."""


class TopicMismatch(EfficientRecError):
    """A topic that is missing or made otherwise than needed."""


class SourceTruncated(EfficientRecError):
    """A source topic ends before what was taken in from it."""


class WorkersEnded(EfficientRecError):
    """A supervised worker ended soon after its first start."""


class BrokerUnavailable(EfficientRecError):
    """The broker cannot be reached, or would not start."""


class BrokerRefused(EfficientRecError):
    """The broker refuses a password, a certificate or an operation; or shows a certificate that is not trusted."""


class StateMismatch(EfficientRecError):
    """A folder of rows that belongs to another changelog, or to nobody known; it was left as it is."""


class StateCorrupt(EfficientRecError):
    """Rows on disk that were damaged; the message says where their folder is now."""


class StateUnwritable(EfficientRecError):
    """A folder of rows that cannot be opened or written; nothing is lost."""


class ErasureUnfinished(EfficientRecError):
    """An erasure is in its topic, but some who have to carry it out have not yet."""
