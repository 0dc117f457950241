"""Names from outside in the messages of every reader: one printable line, whatever they hold.

That nothing leaves by another way is tested in tests/test_message_sources.py.
"""

import copy
import pickle
import warnings

import pytest

from jaxcifar.common.errors import MessageError
from tests.hostile_names import NAMES, READERS


def error_of(case, name, tmp_path):
    folder = tmp_path / (name if case.endswith("_path") else "x")
    folder.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            READERS[case](folder, name)
        except (MessageError, OSError) as error:
            return error
    pytest.fail("nothing was raised")


@pytest.mark.parametrize("name", NAMES, ids=["colours", "directions"])
@pytest.mark.parametrize("case", sorted(READERS))
def test_the_message_of_a_reader_is_printable(case, name, tmp_path):
    error = error_of(case, name, tmp_path)
    lines = list(error.args) if isinstance(error, MessageError) else [str(error)]
    assert all(line.isprintable() for line in lines)
    assert str(error) == "\n".join(lines)
    assert "\\x1b" in str(error) or "\\u202e" in str(error)  # it does show the name
    assert not any(line.startswith("error") for line in lines)
    for same in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert (type(same), str(same), same.args) == (type(error), str(error), error.args)
