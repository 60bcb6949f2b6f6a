"""How numba compiles here.

numba's cache knows a function by its own file, and would go on with what it has when only a file changes that is
compiled into that one. So each file of kernels has a digest of those, `BUILT_ON`; `tests/test_compiled.py` tells the
right one.
"""

from __future__ import annotations

from numba import njit

compiled = njit(cache=True, nogil=True, error_model="numpy")
