"""What numba keeps in its cache is what the sources say."""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path
from types import ModuleType

import pytest

from efficientrec import elfm_kernel, json_kernel, kernels, list_kernel, msgpack_kernel, row_kernel, sequence_kernel
from tests.test_layers import LIBRARY, imports


@pytest.mark.parametrize(
    "kernel", [kernels, elfm_kernel, row_kernel, list_kernel, json_kernel, msgpack_kernel, sequence_kernel]
)
def test_a_kernel_changes_with_what_is_compiled_into_it(kernel: ModuleType) -> None:
    tree = ast.parse(Path(str(kernel.__file__)).read_text())
    ours = sorted(name.removeprefix("efficientrec.") for name in imports(tree) if name.startswith("efficientrec."))
    built_on = b"".join((LIBRARY / f"{name}.py").read_bytes() for name in ours)

    assert hashlib.sha256(built_on).hexdigest()[:16] == kernel.BUILT_ON
