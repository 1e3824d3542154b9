"""Whether model-written code can be run here, for the tests that do."""

from __future__ import annotations

import pytest

from weigh.errors import NotSupported
from weigh.quality.sandbox.judged import require_sandbox


def _why_not() -> str:
    try:
        require_sandbox()
    except NotSupported as error:
        return error.message
    return ""


WHY_NOT = _why_not()
needs_sandbox = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "there is a sandbox")
