"""How loud each voice speaks: chosen on held-out later events, through the code that serves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from efficientrec.evaluation.judging import LIST_SIZE, Examples
from efficientrec.model import Blend, Model

START = Blend(cluster_weight=0.1, anchor_weight=0.1, anchors=5, anchor_decay=0.8)
