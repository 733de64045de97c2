"""What third parties would print or send from a run, and how each is asked not to."""

from __future__ import annotations

import logging
import os
import warnings

_VARIABLES = {
    "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads cost more than they win
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "WANDB_SILENT": "true",
    "DATASETS_VERBOSITY": "error",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}


def environment() -> None:
    """Switches that are read at import; what the caller has set stays."""
    for name, value in _VARIABLES.items():
        os.environ.setdefault(name, value)


def accountants() -> None:
    """Both report Renyi orders that they leave out or lack, which costs no validity."""
    from absl import logging as absl_logging

    absl_logging.set_verbosity(absl_logging.ERROR)
    warnings.filterwarnings("ignore", category=UserWarning, module="opacus")


def libraries() -> None:
    """Progress bars of steps that take no time, round logs of Flower, notices about old names."""
    import transformers

    accountants()
    transformers.utils.logging.disable_progress_bar()
    for name in ("flwr", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
