"""The table of sources: unknown names, and what is asked of each entry."""

from __future__ import annotations

import pytest

from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config.data import Data
from userdp.sim.data.sources.base import GeneratedPopulation
from userdp.sim.data.sources.registry import SOURCES
from userdp.sim.inputs import corpus_loading


@pytest.mark.parametrize(
    ("format_name", "message"),
    [
        ("userdp.sim.data.sources.hub.SAUCE", r"data\.format=userdp\..*SAUCE: .*SAUCE"),
        ("no_such_module.SOURCE", r"data\.format=no_such_module\.SOURCE: .*no_such_module"),
        ("sqlite", r"data\.format=sqlite: choose one of synthetic, .*hub"),
    ],
)
def test_a_format_that_is_not_there_is_refused_in_one_line(format_name, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        Data(format=format_name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", list(SOURCES))
def test_the_formats_of_userdp_have_no_options(name):
    with pytest.raises(ConfigurationError, match=r"data\.options\.table=x: .*leave it out"):
        Data(format=name, options={"table": "x"})


@pytest.mark.parametrize("name", list(SOURCES))
def test_labels_are_refused_where_the_users_are_generated(name):
    if isinstance(SOURCES.find(name), GeneratedPopulation):
        with pytest.raises(ConfigurationError, match=r"data\.label=mood: .*no classes"):
            Data(format=name, label="mood", classes=2)
    else:
        assert Data(format=name, label="mood", classes=2).class_names == ("0", "1")


def test_a_path_is_needed_where_files_or_a_data_set_are_read():
    for name in SOURCES:
        data = Data(format=name)
        if isinstance(SOURCES.find(name), GeneratedPopulation):
            corpus_loading.check(data, 16)
        else:
            with pytest.raises(ConfigurationError, match=r"data\.path is missing"):
                corpus_loading.check(data, 16)
