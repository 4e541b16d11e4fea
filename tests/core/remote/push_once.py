"""Pushes the folder named on the command line: argv is the section `remote` as JSON, the folder, the name. Killed by tests."""

from __future__ import annotations

import sys
from pathlib import Path

from core.remote.push import push
from core.remote.settings import RemoteConfig
from core.remote.store import Store

if __name__ == "__main__":
    push(Store(RemoteConfig.model_validate_json(sys.argv[1])), Path(sys.argv[2]), sys.argv[3])
