"""Switches off what other libraries print or send: telemetry, progress bars, repeated notices."""

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
    """Set the variables that libraries read when they are imported; existing values stay."""
    for name, value in _VARIABLES.items():
        os.environ.setdefault(name, value)


def accountants() -> None:
    """Silence two libraries that report omitted Renyi orders; the bounds stay valid without."""
    from absl import logging as absl_logging

    absl_logging.set_verbosity(absl_logging.ERROR)
    warnings.filterwarnings("ignore", category=UserWarning, module="opacus")


def libraries() -> None:
    """Silence progress bars of short steps, Flower's log of rounds, and notices of old names."""
    import transformers

    accountants()
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    for name in ("flwr", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
