"""The tokenising process that tokens.py calls: worker.py without torch, whose import takes three times as long as the rest."""

from __future__ import annotations

from core.data.tokens import TokeniseRequest
from core.start import forgo
from core.worker_process import main

if __name__ == "__main__":
    forgo("torch")
    from core.data.worker import work

    main(TokeniseRequest, work)
