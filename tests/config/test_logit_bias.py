"""The ways in which inference.logit_bias can be written."""

from __future__ import annotations

import pytest

from recipes.config.hydra_app import compose
from recipes.config.logit_bias import read_logit_bias
from recipes.errors import UserError

WRITTEN: list[tuple[str, dict[int | str, float]]] = [
    ("{42: 5}", {42: 5.0}),
    ("{42:5,the:-1.5}", {42: 5.0, "the": -1.5}),
    ("{42: -100, ' the': 1, '▁भा': 2.5}", {42: -100.0, " the": 1.0, "▁भा": 2.5}),
    ('{"it\'s": 1, "7": 2}', {"it's": 1.0, "7": 2.0}),
    ("{}", {}),
]


@pytest.mark.parametrize(("text", "expected"), WRITTEN)
def test_from_the_command_line(text: str, expected: dict[int | str, float]) -> None:
    config = compose("generate", ["gpt_model_file=x", f"inference.logit_bias={text}"])
    assert read_logit_bias(config.inference.logit_bias) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({42: 101}, "inference.logit_bias[42]=101: must be a number from -100 to 100"),
        ({42: float("nan")}, "inference.logit_bias[42]=nan: must be a number"),
        ({42: "x"}, "inference.logit_bias[42]='x': must be a number"),
        ({42: True}, "inference.logit_bias[42]=True: must be a number"),
        ('{42:5,"a":1}', "with a space after each colon"),
        ({-1: 1.0}, "inference.logit_bias=-1: ids are not negative"),
        ({"": 1.0}, "inference.logit_bias='': name tokens by their ids"),
        ({1.5: 1.0}, "inference.logit_bias=1.5: name tokens by their ids"),
        ("[1, 2]", "inference.logit_bias=[1, 2]: give tokens and numbers"),
        ("{", "inference.logit_bias='{': cannot be read"),
    ],
)
def test_what_is_refused(value: object, message: str) -> None:
    with pytest.raises(UserError) as caught:
        read_logit_bias(value)
    assert message in str(caught.value) and "\n" not in str(caught.value)
