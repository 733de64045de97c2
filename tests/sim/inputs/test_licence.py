"""A licence is told by the base model's own card, and by nothing else."""

from __future__ import annotations

import pytest

from userdp.sim.inputs import licence


@pytest.mark.parametrize(
    ("card", "found"),
    [
        ("---\nlicense: mit\n---\n# A model\n", "mit"),
        ("# A model under the licence mit\n", None),
        ("---\nlicense: [a, b]\n---\n", None),
        ("---\nlicense: 'mit\\n# more'\n---\n", None),
        ("---\nlicense: {\n---\n", None),
        ("\x00\xff", None),
    ],
)
def test_the_licence_is_the_cards(tmp_path, card, found):
    (tmp_path / "README.md").write_bytes(card.encode("latin-1"))
    assert licence.of_base(str(tmp_path), None) == found


def test_no_card_no_licence_and_nothing_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert licence.of_base(str(tmp_path), None) is None
    assert licence.of_base("owner/name", "0" * 40) is None
