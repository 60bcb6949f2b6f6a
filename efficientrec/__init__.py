"""EfficientRec decides what to recommend: pure, typed, usable in a notebook. What delivers it is in `streams`."""
