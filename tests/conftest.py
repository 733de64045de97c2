"""Small machines: one thread a test process, and no deadline for an example on a loaded one."""

import hypothesis
import torch

torch.set_num_threads(1)
hypothesis.settings.register_profile("loaded", deadline=None)
hypothesis.settings.load_profile("loaded")
