"""What all tests share: encoded rows are kept in a folder of the test session, not in the user's cache."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

if "FINETUNE_CACHE" not in os.environ:
    os.environ["FINETUNE_CACHE"] = tempfile.mkdtemp(prefix="finetune-tests-cache-")
    atexit.register(shutil.rmtree, os.environ["FINETUNE_CACHE"], ignore_errors=True)
