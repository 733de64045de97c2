"""A base model reads every token that its tokenizer makes, or is refused."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from helpers import tiny
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.inputs import compatibility


def tokenizer(count: int, largest: int):
    """A tokenizer of so many tokens with one more of this id."""
    ids = {f"t{i}": i for i in range(count)} | {"last": largest}
    return SimpleNamespace(get_vocab=lambda: ids)


@pytest.mark.parametrize("largest", [tiny.VOCABULARY, 10 * tiny.VOCABULARY])
def test_a_tokenizer_with_an_id_behind_the_models_table_is_refused(largest):
    base = tiny.base_model("gpt2")
    compatibility.check_tokens(base, tokenizer(5, tiny.VOCABULARY - 1))
    with pytest.raises(ConfigurationError, match=rf"up to {largest}, .* reads {tiny.VOCABULARY};"):
        compatibility.check_tokens(base, tokenizer(5, largest))
