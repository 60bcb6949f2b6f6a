"""Every encoder by its name."""

from __future__ import annotations

from typing import cast

from efficientrec.encoders import EncoderKind
from efficientrec.encoders.efficientrec import EfficientRecEncoder
from efficientrec.encoders.elcrec import ElcrecEncoder
from efficientrec.encoders.elfm import ElfmEncoder

ENCODERS: dict[str, EncoderKind] = {
    kind.NAME: cast(EncoderKind, kind) for kind in (EfficientRecEncoder, ElfmEncoder, ElcrecEncoder)
}
