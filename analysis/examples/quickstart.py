# %% [markdown]
"""One private run and a small sweep from Python, with the privacy cost of both.

Run it as a script, ``python analysis/examples/quickstart.py [overrides]``, or cell by cell in an
editor that splits scripts at ``# %%``. It takes less than a minute on 2 cores once the embedded
base model is trained and stored.
"""

# %%
import sys

from userdp.sim import api

QUICK = ["cohort=40", "rounds=4", "eval_every=2", "data.users=600", "strategy.records_per_user=2"]
QUICK += [item for item in sys.argv[1:] if "=" in item and not item.startswith("-")]

# %% One run, as `userdp run` makes it, with its metrics as a data frame
result = api.run(*QUICK, "privacy.epsilon=8")
print(result.frame[["epsilon", "signal_to_noise", "heldout_perplexity"]].round(3))

# %% The privacy statement of the run, and the path of its adapter
print({name: result.statement[name] for name in ("private", "epsilon", "epsilon_lower", "delta")})
print(result.adapter_path)

# %% A sweep over all pairs of strategy and epsilon; records and base model are loaded only once
study = api.sweep(*QUICK, "strategy=user_wise,group_privacy", "privacy.epsilon=1,8")
print(study.frame[["strategy.name", "privacy.epsilon", "heldout_perplexity"]].round(3))

# %% The epsilon of a run covers that run alone; all runs together cost more
print("\n".join(study.spending.sentences))
