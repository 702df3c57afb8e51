import numpy as np
import pytest
import xarray as xr

from mechmask.draw.states import by_state, state_name
from mechmask.errors import ReadingError


def test_states_are_called_by_their_names():
    reading = xr.Dataset({"x": (("state", "fact"), np.arange(6).reshape(3, 2))}, {"state": ["before", "ft_l", "a$b$"]})
    states = by_state(reading, "all")
    assert list(states) == ["before", "FT-L", r"a\$b\$"]
    assert [state.x.values.tolist() for state in states.values()] == [[0, 1], [2, 3], [4, 5]]
    assert state_name("finetune") == "fine-tuning"
    assert (state_name("ft_l_2"), state_name("r_rome"), state_name("step_2")) == ("FT-L 2", "r-ROME", "step_2")


def test_a_reading_without_states_is_one():
    reading = xr.Dataset({"x": ("fact", [1, 2])})
    assert by_state(reading, "all")["all"] is reading


def test_states_of_one_name_are_refused_rather_than_lost():
    reading = xr.Dataset({"x": ("state", [1, 2])}, {"state": ["finetune", "fine-tuning"]})
    with pytest.raises(ReadingError, match="one name"):
        by_state(reading, "all")
