"""Ranges and types of settings; each error names its field and value."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from omegaconf import OmegaConf

from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config import hydra_compose, settings, validation

_, CONFIG = hydra_compose.settings([])
WHOLE = ["rounds", "eval_every", "seed", "strategy.records_per_user", "strategy.local_steps",
         "engine.max_tokens", "runtime.nodes", "model.seq_len", "model.lora.r"]  # fmt: skip
REAL = ["cohort", "privacy.epsilon", "privacy.delta", "strategy.clip_norm", "strategy.local_lr"]


def changed(**values: object) -> settings.Settings:
    config = OmegaConf.create(OmegaConf.to_container(CONFIG))
    for name, value in values.items():
        OmegaConf.update(config, name, value)
    return validation.parse(config)


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("value", [1.5, 2.0, True, "x", [1]])
def test_whole_numbers_are_whole(name, value):
    with pytest.raises(ConfigurationError, match=f"^{name}="):
        changed(**{name: value})


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("value", [True, "x", [1.0], {"a": 1}])
def test_real_numbers_are_numbers(name, value):
    with pytest.raises(ConfigurationError, match=f"^{name}="):
        changed(**{name: value})


@pytest.mark.parametrize("name", ["cohort", "privacy.epsilon", "privacy.delta"])
@examples(max_examples=30)
@given(value=st.floats(max_value=0) | st.just(float("nan")) | st.just(float("inf")))
def test_privacy_figures_are_positive_and_finite(name, value):
    with pytest.raises(ConfigurationError, match=f"^{name}="):
        changed(**{name: value})


@examples(max_examples=30)
@given(
    epsilon=st.none() | st.floats(0.01, 100),
    noise=st.none() | st.floats(0.01, 100),
    strategy=st.sampled_from(["user_wise", "group_privacy", "non_private"]),
)
def test_exactly_one_of_epsilon_and_noise_unless_not_private(epsilon, noise, strategy):
    given_figures = [figure for figure in (epsilon, noise) if figure is not None]
    wanted = 0 if strategy == "non_private" else 1
    values = {"privacy.epsilon": epsilon, "privacy.noise_multiplier": noise}
    if len(given_figures) == wanted:
        asked = changed(**values, **{"strategy.name": strategy})
        assert (asked.privacy.epsilon, asked.privacy.noise_multiplier) == (epsilon, noise)
    else:
        with pytest.raises(ConfigurationError, match=r"privacy\.epsilon=.*privacy\.noise_mult"):
            changed(**values, **{"strategy.name": strategy})


def test_all_records_is_zero_for_the_mechanism():
    assert changed(**{"strategy.records_per_user": "all"}).strategy.k == 0
    assert changed(**{"strategy.records_per_user": 3}).strategy.k == 3


def test_a_missing_value_is_named():
    with pytest.raises(ConfigurationError, match=r"^data\.path is missing"):
        hydra_compose.settings(["data=jsonl"])


def test_settings_of_data_and_model_can_be_keys():
    """A sweep loads each data set and model once, by these."""
    asked = changed(**{"model.lora.targets": ["q_proj", "v_proj"]})
    assert hash(asked.model) == hash(changed(**{"model.lora.targets": ["q_proj", "v_proj"]}).model)
    assert hash(asked.data)


def test_a_second_mechanism_is_an_unknown_option():
    with pytest.raises(
        ConfigurationError, match=r"strategy\.mechanism=group_privacy.*no such option"
    ):
        hydra_compose.settings(["+strategy.mechanism=group_privacy"])
    settings, _ = hydra_compose.settings(["+strategy.mechanism=user_wise"])  # as older runs have it
    assert settings.strategy.options == {}
