"""Masking of personal data: e-mail, UPI, IP, Aadhaar, phone, PAN, vehicle numbers; Devanagari digits too.

Patterns are matched against a shadow copy of the text in which Devanagari digits, no-break spaces and dashes
are ASCII, character for character, so that an index into the shadow is an index into the text.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass

_SHADOW = str.maketrans("०१२३४५६७८९\u00a0\u2009\u202f\u2010\u2011\u2012\u2013", "0123456789   ----")

# Handles of payment apps and banks, with which UPI addresses end. Accepting anything after the @ would also
# mask decorators, mentions and matrix products.
_UPI_HANDLES = """
abfspay airtel airtelpaymentsbank albk allbank andb apb apl aubank axb axis axisb axisbank axl bandhan
barodampay barodapay birla boi cbin cboi centralbank citi cmsidfc cnrb csbpay dbs dcb dlb eazypay equitas
ezeepay fbl federal finobank freecharge hdfcbank hdfcbankjd hsbc ibl icici icicibank idbi idbibank idfc
idfcbank idfcfirst ikwik imobile ind indbank indianbank indus induspay iob jio jkb jupiteraxis karb
karurvysyabank kaypay kbl kmb kotak kvb lvb mahb myicici nsdl obc okaxis okhdfcbank okicici oksbi paytm
payzapp phonepe pingpay pnb pockets postbank ptaxis pthdfc ptsbi ptyes rajgovhdfcbank rbl rmhdfcbank sbi
sc scb sib superyes syndicate tapicici timecosmos tjsb ubi uboi uco unionbank unionbankofindia upi utbi
vijb waaxis wahdfcbank waicici wasbi yapl ybl yesbank yesbankltd yespay
"""
_STATES = """
AN AP AR AS BR CG CH DD DL DN GA GJ HP HR JH JK KA KL LA LD MH ML MN MP MZ NL OD OR PB PY RJ SK TN TR TS
TG UA UK UP WB
"""

# Verhoeff's check digit: multiplication in the dihedral group D5, and the powers of one permutation.
# J. Verhoeff, Error Detecting Decimal Codes, Mathematical Centre Tracts 29, 1969.
_PERMUTATION = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)


def _times(a: int, b: int) -> int:
    """The product in D5: 0 to 4 are rotations, 5 to 9 reflections."""
    if a < 5:
        return (a + b) % 5 if b < 5 else 5 + (a + b) % 5
    return 5 + (a - b) % 5 if b < 5 else (a - b) % 5


def verhoeff_valid(digits: str) -> bool:
    """Whether the last of the ASCII digits is the Verhoeff check digit of the others."""
    total = 0
    for position, character in enumerate(reversed(digits)):
        digit = int(character)
        for _ in range(position % 8):
            digit = _PERMUTATION[digit]
        total = _times(total, digit)
    return total == 0


def _aadhaar(match: str) -> bool:
    digits = re.sub(r"\D", "", match)
    return len(digits) == 12 and verhoeff_valid(digits)


def _phone(match: str) -> bool:
    """Rules out ranges of round amounts (60000-80000) and single round amounts (7000000000)."""
    return not re.fullmatch(r"\d{3}00-\d{3}00|\d{4}0{6}", match)


def _public_ip(match: str) -> bool:
    if re.fullmatch(r"\d\.\d\.\d\.\d", match):
        return False  # Sections are numbered like this; few households have such an address.
    try:
        return ipaddress.ip_address(match).is_global
    except ValueError:
        return False


@dataclass(frozen=True)
class _Kind:
    pattern: re.Pattern[str]
    valid: Callable[[str], bool] | None = None
    needs: str = ""
    """A character that every match contains: texts without it are not searched."""


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text, re.ASCII | re.VERBOSE | re.MULTILINE)


# A number must not continue as a word, decimal or dashed number; a second mobile number may follow a dash.
_BEFORE = r"(?<!\w)(?<!\d[.,-])"
_AFTER = r"(?!\w)(?!\.\d|[,-](?![6-9]\d{9}(?!\d))\d)"
# Numbers written in groups must not be part of a longer series of groups. A list number at the start of the
# line is not part of the series, nor is a quantity after it: 98765 43210 24 hours.
_BEFORE_GROUPS = rf"{_BEFORE}(?:(?<!\d[ ])|(?<=^\d[ ])|(?<=^\d\d[ ]))"
_AFTER_GROUPS = rf"{_AFTER}(?![ ](?!\d{{1,3}}[ ]?[A-Za-z\u0080-\U0010ffff])\d)"
_COUNTRY = r"(?:(?:\+|00)91[ .-]?|91[ -]?|\(\+91\)[ ]?|0[ -]?)?"

_KINDS = {
    "email": _Kind(
        _pattern(
            r"(?<![A-Za-z0-9]) [A-Za-z0-9][A-Za-z0-9._%+-]{0,63}"
            r"@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24} (?![A-Za-z0-9]|-[A-Za-z0-9])"
        ),
        needs="@",
    ),
    "upi": _Kind(
        re.compile(
            rf"(?<![A-Za-z0-9])[A-Za-z0-9][A-Za-z0-9._-]{{1,49}}@(?:{'|'.join(_UPI_HANDLES.split())})"
            r"(?![A-Za-z0-9_@-]|\.[A-Za-z0-9])",
            re.ASCII | re.IGNORECASE,
        ),
        needs="@",
    ),
    "ip": _Kind(
        _pattern(
            r"(?<![\w.-])(?<!ersion[ ]) (?:\d{1,3}\.){3}\d{1,3} (?![\w-]|\.\d)"
            # Public IPv6 addresses begin with 2 or 3: `be::` and `a::b` are code.
            r"| (?<![\w:.]) [23][0-9A-Fa-f]{3}:(?:[0-9A-Fa-f]{0,4}:){1,6}[0-9A-Fa-f]{0,4} (?![\w:]|\.\w)"
        ),
        _public_ip,
    ),
    "aadhaar": _Kind(
        _pattern(
            rf"{_BEFORE}(?<!\+) [2-9]\d{{11}} {_AFTER}"
            rf"| {_BEFORE_GROUPS}(?<!\+) [2-9]\d{{3}}(?P<gap>[ -])\d{{4}}(?P=gap)\d{{4}} {_AFTER_GROUPS}"
        ),
        _aadhaar,
    ),
    "phone": _Kind(
        _pattern(
            # Mobile numbers: ten digits beginning with 6 to 9, with or without the country code or a 0.
            rf"{_BEFORE} {_COUNTRY} [6-9]\d{{9}} {_AFTER}"
            rf"| {_BEFORE_GROUPS} {_COUNTRY}"
            r"(?:[6-9]\d{4}[ -]\d{5} | [6-9]\d{2}[ -]\d{3}[ -]\d{4} | [6-9]\d{3}[ -]\d{3}[ -]\d{3})"
            rf"{_AFTER_GROUPS}"
            # Landlines: ten digits after the 0 or +91, with a gap after the area code.
            rf"| {_BEFORE_GROUPS} (?:\+91[ -]|\(?0)"
            r"(?:[1-8]\d[) -]{1,2}[2-7]\d{3}[ -]?\d{4} | [1-8]\d{2}[) -]{1,2}[2-7]\d{2}[ -]?\d{4}"
            r"| [1-8]\d{3}[) -]{1,2}[2-7]\d{5})"
            rf"{_AFTER_GROUPS}"
        ),
        _phone,
    ),
    "pan": _Kind(_pattern(r"(?<![\w-]) [A-Z]{3}[ABCFGHJLPT][A-Z]\d{4}[A-Z] (?![\w-])")),
    "vehicle": _Kind(
        # The letters of a series are never I or O, which look like digits.
        _pattern(
            rf"(?<![\w-]) (?:(?:{'|'.join(_STATES.split())})[ -]?\d{{1,2}}[ -]?[A-HJ-NP-Z]{{1,3}}[ -]?\d{{4}}"
            r"| \d{2}[ -]?BH[ -]?\d{4}[ -]?[A-Z]{1,2}) (?![\w-])"
        )
    ),
}


def mask(text: str, kinds: Collection[str]) -> tuple[str, Counter[str]]:
    """`text` with personal data replaced by <EMAIL>, <UPI>, <IP>, <AADHAAR>, <PHONE>, <PAN>, <VEHICLE>.

    Of overlapping matches the kind that comes first in `PII_KINDS` counts. IP addresses that are not public
    (192.168.0.1) stay, as do twelve digits whose check digit is not that of an Aadhaar number.

    Returns:
        The masked text, and how many of each kind were masked.
    """
    counts: Counter[str] = Counter()
    # Once its neighbour is masked, a number may stand alone and match too.
    while found := _find(text, kinds):
        parts, position = [], 0
        for start, end, name in sorted(found):
            parts += [text[position:start], f"<{name.upper()}>"]
            position = end
        text = "".join([*parts, text[position:]])
        counts.update(name for _, _, name in found)
    return text, counts


def _find(text: str, kinds: Collection[str]) -> list[tuple[int, int, str]]:
    """Start, end and kind of everything to be masked, without overlaps."""
    shadow = text.translate(_SHADOW)
    found: list[tuple[int, int, str]] = []
    taken = bytearray(len(shadow))
    for name, kind in _KINDS.items():
        if name not in kinds or kind.needs not in shadow:
            continue
        for match in kind.pattern.finditer(shadow):
            start, end = match.span()
            if kind.valid is not None and not kind.valid(match.group()):
                continue
            if taken.find(1, start, end) == -1:
                taken[start:end] = b"\x01" * (end - start)
                found.append((start, end, name))
    return found
