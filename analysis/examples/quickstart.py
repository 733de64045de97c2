# %% [markdown]
"""A notebook in a script: one private run, a small sweep, and what each cost.

Open it where ``# %%`` cells are known, or run it: ``python analysis/examples/quickstart.py [overrides]``.
It takes less than a minute on 2 cores, once the embedded model is there.
"""

# %%
import sys

from userdp.sim import api

QUICK = ["cohort=40", "rounds=4", "eval_every=2", "data.users=600", "strategy.records_per_user=2"]
QUICK += [item for item in sys.argv[1:] if "=" in item and not item.startswith("-")]

# %% One run: what `userdp run` does, with its figures as a data frame
result = api.run(*QUICK, "privacy.epsilon=8")
print(result.frame[["epsilon", "signal_to_noise", "heldout_perplexity"]].round(3))

# %% What may be said of it, and where the adapter is
print({name: result.statement[name] for name in ("private", "epsilon", "epsilon_lower", "delta")})
print(result.adapter_path)

# %% A sweep: all choices with all others; records, base model and its scores are loaded once
study = api.sweep(*QUICK, "strategy=user_wise,group_privacy", "privacy.epsilon=1,8")
print(study.frame[["strategy.name", "privacy.epsilon", "heldout_perplexity"]].round(3))

# %% Every run has its own epsilon; looking at all of them costs more
print("\n".join(study.spending.sentences))
