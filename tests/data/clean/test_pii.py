"""Masks of personal data, and Verhoeff's check digit against an implementation of its own."""

from __future__ import annotations

import itertools
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.config.clean_schema import PII_KINDS
from recipes.data.clean.pii import mask
from recipes.data.clean.pii_checks import verhoeff_valid
from tests.data.clean.pii_examples import DEVANAGARI, negatives, parse, positives


def masked(text: str) -> str:
    return mask(text, PII_KINDS)[0]


def compose(*permutations: tuple[int, ...]) -> tuple[int, ...]:
    result: tuple[int, ...] = (0, 1, 2, 3, 4)
    for permutation in permutations:
        result = tuple(result[permutation[i]] for i in range(5))
    return result


# The symmetries of the pentagon as permutations of its corners: rotations 0 to 4, reflections 5 to 9.
ROTATION, REFLECTION = (1, 2, 3, 4, 0), (0, 4, 3, 2, 1)
SYMMETRIES = [compose(*[ROTATION] * turns) for turns in range(5)]
SYMMETRIES += [compose(*[ROTATION] * turns, REFLECTION) for turns in range(5)]
# Verhoeff's permutation by its cycles.
CYCLES = ((0, 1, 5, 8, 9, 4, 2, 7), (3, 6))


def permuted(digit: int, times: int) -> int:
    for cycle in CYCLES:
        if digit in cycle:
            return cycle[(cycle.index(digit) + times) % len(cycle)]
    raise AssertionError


def check_digit(digits: str) -> str:
    """The digit that makes the product of all permuted symmetries the identity."""
    for candidate in range(10):
        places = [candidate, *map(int, reversed(digits))]
        factors = [SYMMETRIES[permuted(digit, position)] for position, digit in enumerate(places)]
        if compose(*factors) == SYMMETRIES[0]:
            return str(candidate)
    raise AssertionError


numbers = st.text("0123456789", min_size=1, max_size=20)
aadhaar_stems = st.from_regex(r"[2-9][0-9]{10}", fullmatch=True)
mobiles = st.from_regex(r"[6-9][0-9]{8}[1-9]", fullmatch=True)  # round numbers are amounts


@settings(deadline=None)
@given(numbers)
def test_verhoeff_agrees_with_the_symmetries_of_the_pentagon(digits: str) -> None:
    valid = [digit for digit in "0123456789" if verhoeff_valid(digits + digit)]
    assert valid == [check_digit(digits)]


def test_verhoeff_published_example() -> None:
    assert verhoeff_valid("2363") and verhoeff_valid("123451") and not verhoeff_valid("2364")


@settings(deadline=None)
@given(aadhaar_stems, st.data())
def test_verhoeff_finds_every_wrong_digit_and_every_swap(stem: str, data: st.DataObject) -> None:
    number = stem + check_digit(stem)
    place = data.draw(st.integers(0, 11))
    wrong = data.draw(st.sampled_from([d for d in "0123456789" if d != number[place]]))
    assert not verhoeff_valid(number[:place] + wrong + number[place + 1 :])
    place = data.draw(st.integers(0, 10))
    swapped = number[:place] + number[place + 1] + number[place] + number[place + 2 :]
    assert verhoeff_valid(swapped) == (swapped == number)


@settings(deadline=None)
@given(aadhaar_stems, st.sampled_from(["", " ", "-"]), st.booleans())
def test_aadhaar_numbers(stem: str, gap: str, devanagari: bool) -> None:
    digits = stem + check_digit(stem)
    number = gap.join((digits[:4], digits[4:8], digits[8:]))
    if devanagari:
        number = number.translate(DEVANAGARI)
    text, counts = mask(f"आधार संख्या {number} है।", PII_KINDS)
    assert text == "आधार संख्या <AADHAAR> है।" and counts == Counter(aadhaar=1)


@settings(deadline=None)
@given(aadhaar_stems, st.integers(1, 9))
def test_twelve_digits_without_the_check_digit_are_no_aadhaar(stem: str, error: int) -> None:
    wrong = (int(check_digit(stem)) + error) % 10
    assert mask(f"{stem}{wrong}", PII_KINDS)[1]["aadhaar"] == 0


PHONES = ["{}", "+91{}", "+91 {}", "+91-{}", "91 {}", "0{}", "0091{}", "(+91) {}"]
GROUPS = [(10,), (5, 5), (3, 3, 4), (4, 3, 3)]


@settings(deadline=None)
@given(mobiles, st.sampled_from(PHONES), st.sampled_from(GROUPS), st.sampled_from(" -"), st.booleans())
def test_mobile_numbers(number: str, form: str, groups: tuple[int, ...], gap: str, devanagari: bool) -> None:
    ends = list(itertools.accumulate(groups))
    grouped = gap.join(number[end - size : end] for end, size in zip(ends, groups, strict=True))
    written = form.format(grouped)
    if devanagari:
        written = written.translate(DEVANAGARI)
    # Twelve digits from 91 may be an Aadhaar number by their check digit: masked all the same.
    assert re.fullmatch(r"फोन: <(PHONE|AADHAAR)>, धन्यवाद", masked(f"फोन: {written}, धन्यवाद"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Call 011-23456789 now", "Call <PHONE> now"),
        ("(022) 2345 6789", "<PHONE>"),
        ("+91 80 2345 6789", "<PHONE>"),
        ("Ph.9876543210.", "Ph.<PHONE>."),
        ("9876543210/9876543211", "<PHONE>/<PHONE>"),
        ("9876543210 9876543211", "<PHONE> <PHONE>"),
        ("फोन९८७६५४३२१०", "फोन<PHONE>"),
        ("a.b+c@mail.example.co.in, or", "<EMAIL>, or"),
        ("..ram@example.com.", "..<EMAIL>."),
        ("ram.kumar@okaxis se", "<UPI> se"),
        ("9876543210@ybl", "<UPI>"),
        ("Ram@PAYTM.", "<UPI>."),
        ("9876543210,9876543211", "<PHONE>,<PHONE>"),
        ("9876543210-9876543211", "<PHONE>-<PHONE>"),
        ("Call 98765 43210 24 hours", "Call <PHONE> 24 hours"),
        ("कॉल 98765 43210 24 घंटे", "कॉल <PHONE> 24 घंटे"),
        ("नाम\n2 98765 43210", "नाम\n2 <PHONE>"),
        ("12 98765 43210", "12 <PHONE>"),
        ("0 98765 43210", "<PHONE>"),
        ("+91\u00a098765\u00a043210", "<PHONE>"),
        ("98765\u201343210", "<PHONE>"),
        ("+91.9876543210", "<PHONE>"),
        ("mail ravi@example.com- next", "mail <EMAIL>- next"),
        ("49.36.128.8:53 and 103.21.58.4.", "<IP>:53 and <IP>."),
        ("2001:4860:4860::8888 is", "<IP> is"),
        ("PAN ABCPK1234L.", "PAN <PAN>."),
        ("MH 12 AB 1234", "<VEHICLE>"),
        ("DL3CAB1234 और UP-32-X-0001", "<VEHICLE> और <VEHICLE>"),
        ("22 BH 1234 AA", "<VEHICLE>"),
    ],
)
def test_masked(text: str, expected: str) -> None:
    assert masked(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "192.168.0.1 and 127.0.0.1 and 999.1.1.1",  # no public addresses
        "section 4.2.3.1, version 11.0.0.1",
        "वेतन 60000-80000 रुपये, कुल 7000000000",
        "PRICES UP 20 IN 2019",
        "98765 43210 24 17 2",  # a row of a table
        "mail@example.com-x",
        "9876543210,98765432101",
        "12:30:45 std::vector fe80::1",
        "it will be:: use a::* or Add::add(a)",
        "@property a@b matrix x@y.",
        "1234567890",  # a mobile number begins with 6 to 9
        "98765432101",  # eleven digits
        "9876543210.55 rupees",
        "ISBN 978-81-7525-766-5",
        "4111 1111 1111 1111",  # sixteen digits
        "10234 98765 43210 12345",  # a row of a table
        "ABCXK1234L abcpk1234l ABCPK12345",
        "ZZ 12 AB 1234",
        "in 1947, 15 August; pi is 3.14159265358979",
        "sha 9876543210abcdef9876543210",
    ],
)
def test_left_alone(text: str) -> None:
    assert mask(text, PII_KINDS) == (text, Counter())


def test_only_the_kinds_asked_for() -> None:
    text = "ram@example.com 9876543210"
    assert mask(text, ["phone"]) == ("ram@example.com <PHONE>", Counter(phone=1))
    assert mask(text, PII_KINDS)[1] == Counter(email=1, phone=1)


pieces = st.sampled_from(
    [
        "ram@example.com",
        "x@okaxis",
        "49.36.128.8",
        "9876543210",
        "+91 98765 43210",
        "ABCPK1234L",
        "MH 12 AB 1234",
    ]
)


@settings(deadline=None)
@given(st.lists(st.one_of(st.text(max_size=20), pieces), max_size=8).map(" ".join))
def test_masking_twice_changes_nothing_more(text: str) -> None:
    once = masked(text)
    assert mask(once, PII_KINDS) == (once, Counter())


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Nd", "No", "Nl"], exclude_characters="@:")))
def test_text_without_digits_stays(text: str) -> None:
    assert masked(text) == text


# What masking still gets wrong of the examples: marked text -> what comes out.
STILL_WRONG = {
    # Groups that no card prints; numbers of a table look like this.
    "It was linked to [aadhaar: 4738\u200919205644] last week.": (
        "It was linked to 4738\u200919205644 last week."
    ),
    "लाभार्थी ने [aadhaar: ४७३८\u2009१९२०५६४४] जमा किया।": "लाभार्थी ने ४७३८\u2009१९२०५६४४ जमा किया।",
    "Ring [phone: 0141-2 345 678] after six.": "Ring 0141-2 345 678 after six.",
    "शाम को [phone: ०१४१-२ ३४५ ६७८] मिलाइए।": "शाम को ०१४१-२ ३४५ ६७८ मिलाइए।",
    # Seven digits without the area code, and without a word before them.
    "For booking ring Mr. Sharma, [phone: 98390-12345] (M), [phone: 2345678] (R).": (
        "For booking ring Mr. Sharma, <PHONE> (M), 2345678 (R)."
    ),
    # The 0 is the mark of an abbreviation here, and taken for the first digit.
    "मो0 [phone: 9415234567]": "मो<PHONE>",
    # Spaces around the @ are common in prices and mentions.
    "E-mail: [email: ravi @ example.com]": "E-mail: ravi @ example.com",
    "Write to [email: ravi (at) example (dot) com]": "Write to ravi (at) example (dot) com",
}


def as_marked(marked: str) -> tuple[str, Counter[str]]:
    """The text with exactly its marks masked, and how many there are of each kind."""
    text, spans = parse(marked)
    for start, end, kind in reversed(spans):
        text = f"{text[:start]}<{kind.upper()}>{text[end:]}"
    return text, Counter(kind for _, _, kind in spans)


def test_examples_are_many_and_of_every_kind() -> None:
    kinds = Counter(kind for marked in positives() for _, _, kind in parse(marked)[1])
    assert set(kinds) == set(PII_KINDS) and min(kinds.values()) >= 15
    assert len(set(positives())) >= 300 and len(set(negatives())) >= 300
    assert STILL_WRONG.keys() <= set(positives())


def test_all_examples_are_masked_but_those_known() -> None:
    wrong = {}
    for marked in positives():
        text, counts = mask(parse(marked)[0], PII_KINDS)
        if (text, counts) != as_marked(marked):
            wrong[marked] = text
    assert wrong == STILL_WRONG


def test_nothing_of_ordinary_text_is_masked() -> None:
    assert [text for text in negatives() if mask(text, PII_KINDS) != (text, Counter())] == []


@pytest.mark.parametrize("kind", PII_KINDS)
def test_each_kind_alone(kind: str) -> None:
    """No kind needs another one, and none masks what is of another: but a GSTIN contains a PAN."""
    for marked in positives():
        spans = parse(marked)[1]
        if marked not in STILL_WRONG and {k for _, _, k in spans} == {kind}:
            assert mask(parse(marked)[0], [kind]) == as_marked(marked)


@pytest.mark.parametrize("years", ["2010 2020 2030", "2004 2006 2008", "2001 2009 2017"])
def test_years_are_an_aadhaar_only_where_the_text_says_so(years: str) -> None:
    assert verhoeff_valid(years.replace(" ", ""))
    assert masked(f"in {years}") == f"in {years}"
    assert masked(f"Aadhaar no. {years}") == "Aadhaar no. <AADHAAR>"
    assert masked(f"वर्ष {years.translate(DEVANAGARI)} में") == f"वर्ष {years.translate(DEVANAGARI)} में"


@pytest.mark.timeout(120)  # One pass over the text for each number took minutes.
@pytest.mark.parametrize(
    ("number", "tag"),
    [("9876543210-", "<PHONE>-"), ("J8369854, ", "<PASSPORT>, ")],
    ids=["phones", "passports"],
)
def test_long_lists(number: str, tag: str) -> None:
    assert masked("passport " + number * 5000) == "passport " + tag * 5000
