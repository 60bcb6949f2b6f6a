"""Every learner by the name of its encoder."""

from __future__ import annotations

from efficientrec.training import efficientrec, elcrec, elfm
from efficientrec.training.learned import Learner

LEARNERS: dict[str, Learner] = {"efficientrec": efficientrec.learn, "elfm": elfm.learn, "elcrec": elcrec.learn}
