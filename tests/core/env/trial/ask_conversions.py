"""Asks the trial's conversion for several students in one process, so that torch is imported once: `CARDS_JSON CONVERTER`.

Prints one ConversionTrial a line.
"""

import json
import sys
from pathlib import Path

from core.catalogue import ModelCard
from core.config import TrainConfig
from core.env.trial import worker
from core.env.trial.reading import TrialRequest

train = TrainConfig(student="any")
for card in json.loads(sys.argv[1]):
    request = TrialRequest(train=train, card=ModelCard.model_validate(card), converter=Path(sys.argv[2]))
    sys.stdout.write(worker._conversion(request).model_dump_json() + "\n")
