"""The tests. Assertions in tests/support show their values too."""

import pytest

pytest.register_assert_rewrite("tests.support")
