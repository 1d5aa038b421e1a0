"""Masking of personal data as it is printed in India, in English and Hindi, in ASCII and Devanagari digits.

Patterns are matched against a shadow copy of the text in which Devanagari digits, unusual spaces and dashes
are ASCII, character for character, so that an index into the shadow is an index into the text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from recipes.data.clean import pii_checks as checks

_SHADOW = str.maketrans(
    "०१२३४५६७८९\u00a0\u2002\u2003\u2007\u2009\u202f\u2010\u2011\u2012\u2013\u2212\uff20",
    "0123456789      -----@",
)

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
tmb vijb waaxis wahdfcbank waicici wasbi yapl ybl yesbank yesbankltd yespay naviaxis yespop
sliceaxis kotak811 idfcnetc niyoicici goaxb rapl fam fifederal freoicici okbizaxis okbizicici yescred yesfam
yesg
"""
_STATES = """
AN AP AR AS BR CG CH DD DL DN GA GJ HP HR JH JK KA KL LA LD MH ML MN MP MZ NL OD OR PB PY RJ SK TN TR TS
TG UA UK UP WB
"""
# The same as Hindi newspapers spell them: यूपी 32 एबी 1234.
_STATES_HINDI = """
एपी एएस बीआर सीजी सीएच डीएल जीए जीजे एचआर एचपी जेएच जेके केए केएल एमएच एमपी एमएन एमएल ओडी ओआर पीबी पीवाई
आरजे एसके टीएन टीआर टीएस टीजी यूए यूके यूपी डब्ल्यूबी डब्लूबी
"""
_LETTERS_HINDI = "डब्ल्यू डब्लू एक्स क्यू वाई जेड जेड़ ज़ेड एच एफ एम एन एल एस आर ए बी सी डी ई जी जे के पी टी यू वी"
# Domains in other scripts after a name in Latin letters; after a name in its own script any domain counts.
_DOMAINS = """
भारत भारतम् भारोत ভারত ভাৰত భారత్ ભારત ਭਾਰਤ இந்தியா ಭಾರತ ഭാരതം ଭାରତ بھارت بارت ڀارت संगठन कॉम नेट рф рус
укр 中国 中國 公司 网络 한국 ไทย
"""

# Letters of the scripts that names and domains are written in: with vowel signs and joiners, without dandas.
_FOREIGN = (
    r"\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u0300-\u052f\u0620-\u06d3\u06d5-\u06ff"
    r"\u0900-\u0963\u0966-\u096f\u0971-\u0d7f\u0e01-\u0e3a\u0e40-\u0e4e\u200c\u200d"
    r"\u3041-\u30ff\u3400-\u9fff\uac00-\ud7a3"
)
_LETTER = rf"A-Za-z0-9{_FOREIGN}"


@dataclass(frozen=True)
class _Rule:
    """One printed form of a kind of personal data."""

    kind: str
    pattern: re.Pattern[str]
    valid: checks.Check | None = None
    needs: tuple[str, ...] = ()
    """Texts that contain none of these, in lower case, are not searched."""
    long: bool = False
    """Every match contains a `_LONG_NUMBER`; texts without one are not searched."""


def _pattern(text: str, flags: int = 0) -> re.Pattern[str]:
    return re.compile(text, re.ASCII | re.VERBOSE | re.MULTILINE | flags)


# A number must not continue as a word, decimal or dashed number; a second mobile number may follow a dash.
_BEFORE = r"(?<![\w^])(?<!\d[.,-])"
_AFTER = r"(?!\w)(?!\.\d|[,-](?![6-9]\d{9}(?!\d))\d)"
# Numbers written in groups must not be part of a longer series of groups. A list number at the start of the
# line is not part of the series, nor is a quantity after it: 98765 43210 24 hours.
_BEFORE_GROUPS = rf"{_BEFORE}(?:(?<!\d[ ])|(?<=^\d[ ])|(?<=^\d\d[ ]))"
_AFTER_GROUPS = rf"{_AFTER}(?![ ](?!\d{{1,3}}[ ]?[A-Za-z\u0080-\U0010ffff])\d)"
_CODE = r"(?:\(\+[ ]?91\)|(?:\+[ ]?|00)91)"
_COUNTRY = rf"(?:{_CODE}[ .-]?|91[ -]?|\(91\)[ ]?|\(0\)[ -]?|0[ -]?)?"
_GAP = r"[ ]?-?[ ]?"
_PAN = r"[A-Z]{3}[ABCFGHJLPT][A-Z]\d{4}[A-Z]"
_STATE = rf"(?:{'|'.join(_STATES.split())})"
_SERIES_HINDI = rf"(?:{'|'.join(_LETTERS_HINDI.split())})"


def _whole(text: str, flags: int = 0) -> re.Pattern[str]:
    """Not a part of a longer word or dashed number."""
    return _pattern(rf"(?<![\w-]) (?:{text}) (?![\w-])", flags)


# In the order of PII_KINDS: of overlapping matches the first counts.
_RULES = (
    _Rule(
        "email",
        _pattern(
            # "ईमेल-ravi@example.com": the Hindi word is no part of the name.
            rf"(?<![{_LETTER}]) (?![{_FOREIGN}-]+-[A-Za-z][A-Za-z0-9._%+-]*@)"
            rf"[{_LETTER}][{_LETTER}._%+'-]{{0,63}}"
            rf"@(?:[{_LETTER}-]{{1,63}}\.){{1,8}}(?:"
            r"(?:xn--[A-Za-z0-9-]{2,59}|[A-Za-z]{2,24}) (?![A-Za-z0-9]|-[A-Za-z0-9])"
            rf"| (?:{'|'.join(_DOMAINS.split())}|(?<=[{_FOREIGN}]\.)[{_FOREIGN}]{{2,24}})"
            rf"(?![{_LETTER}]|-[{_LETTER}]))"
        ),
        needs=("@",),
    ),
    _Rule(
        "upi",
        re.compile(
            rf"(?<![A-Za-z0-9])[A-Za-z0-9][A-Za-z0-9._-]{{1,49}}@(?:{'|'.join(_UPI_HANDLES.split())})"
            r"(?![A-Za-z0-9_@-]|\.[A-Za-z0-9])",
            re.ASCII | re.IGNORECASE,
        ),
        needs=("@",),
    ),
    _Rule(
        "upi",
        re.compile(
            r"(?<![A-Za-z0-9])[A-Za-z0-9][A-Za-z0-9._-]{1,49}@[A-Za-z]{2,20}(?![A-Za-z0-9_@-]|\.[A-Za-z0-9])",
            re.ASCII,
        ),
        checks.upi_word,
        needs=("@",),
    ),
    _Rule("ip", _pattern(r"(?<![\w.-]) (?:\d{1,3}\.){3}\d{1,3} (?![\w-]|\.\d)"), checks.public_ip, (".",)),
    _Rule(
        "ip",
        # Public IPv6 addresses begin with 2 or 3: `be::` and `a::b` are code.
        _pattern(r"(?<![\w:.]) [23][0-9A-Fa-f]{3}:(?:[0-9A-Fa-f]{0,4}:){1,6}[0-9A-Fa-f]{0,4} (?![\w:]|\.\w)"),
        checks.public_ip,
        (":",),
    ),
    _Rule(
        "aadhaar",
        _pattern(
            rf"{_BEFORE}(?<!\+) [2-9]\d{{11}} {_AFTER}"
            rf"| {_BEFORE_GROUPS}(?<!\+) [2-9]\d{{3}}(?P<gap>[ ]{{1,2}}|[ ]?-[ ]?)"
            rf"\d{{4}}(?P=gap)\d{{4}} {_AFTER_GROUPS}"
        ),
        checks.aadhaar,
        long=True,
    ),
    # Other groups, such as a form's boxes, only beside a word.
    _Rule(
        "aadhaar",
        _pattern(rf"{_BEFORE_GROUPS} [2-9](?:[ ./|_-]{{0,3}}\d){{11}} {_AFTER_GROUPS}"),
        checks.spoken_of_as_aadhaar,
        ("adha", "uid", "आधार"),
        long=True,
    ),
    _Rule(
        "vid",
        _pattern(
            rf"{_BEFORE_GROUPS} [2-9]\d{{3}}(?P<gap>[ ]{{0,2}}|[ ]?-[ ]?)"
            rf"(?:\d{{4}}(?P=gap)){{2}}\d{{4}} (?!\w)"
        ),
        checks.vid_word,
        ("vid", "virtual id", "वीआईडी", "वर्चुअल"),
        long=True,
    ),
    # With the code of the country, in any groups.
    _Rule(
        "phone",
        _pattern(
            rf"{_BEFORE} {_CODE} [ ./-]{{0,3}} (?:\(0\)[ -]?|0[ -]?)?"
            rf"\(?[1-9](?:[ .()/-]{{0,3}}\d){{9}} {_AFTER_GROUPS}"
        ),
        needs=("91",),
        long=True,
    ),
    # Mobile numbers: ten digits beginning with 6 to 9, with or without the country code or a 0.
    _Rule(
        "phone",
        _pattern(
            rf"{_BEFORE} {_COUNTRY} [6-9]\d{{9}} {_AFTER}"
            rf"| {_BEFORE_GROUPS} {_COUNTRY}"
            r"(?:[6-9]\d{4}(?:[ -]|[ ]-[ ])\d{5} | \([6-9]\d{4}\)[ -]?\d{5} | [6-9]\d{2}([ .-])\d{3}\1\d{4}"
            r"| [6-9]\d{2}[ -]\d{3}[ -]\d{4} | [6-9]\d{3}[ -]\d{3}[ -]\d{3})"
            rf"{_AFTER_GROUPS}"
        ),
        checks.mobile,
        long=True,
    ),
    # Landlines: ten digits after the 0 or the country's code, with a gap after the area code.
    _Rule(
        "phone",
        _pattern(
            rf"{_BEFORE_GROUPS} (?:91-|\(?0)"
            r"(?:[1-8]\d[) -]{1,3}[2-7]\d{3}[ -]?\d{4} | [1-8]\d{2}[) -]{1,3}[2-7]\d{2}[ -]?"
            r"(?:\d{4}|\d{2}[ -]\d{2})"
            r"| [1-8]\d{3}[) -]{1,3}[2-7]\d(?:\d{4}|\d[ -]\d{3}|[ -]\d{2}[ -]?\d{2}))"
            rf"{_AFTER_GROUPS}"
        ),
        long=True,
    ),
    # Other groups, and landlines without their area code, only beside a word: Tel. 2345 6789.
    _Rule(
        "phone",
        _pattern(
            rf"{_BEFORE_GROUPS} (?:0?[6-9](?:[ ./-]{{0,2}}\d){{9}} | 0[1-8]\d{{9}}"
            r"| 0[1-8]\d{1,3}[ ]?/[ ]?[2-7]\d{5,7} | [2-7]\d{3}[ -]?\d{4})"
            rf"{_AFTER_GROUPS}"
        ),
        checks.spoken_of_as_phone,
        long=True,
    ),
    _Rule(
        "gstin",
        _whole(
            rf"(?:[0-3]\d|9[79])(?P<gap>[ ]?|-){_PAN}(?P=gap)[1-9A-Z](?:(?P=gap)|)[ZCD](?:(?P=gap)|)[0-9A-Z]"
        ),
    ),
    _Rule(
        "gstin",
        _whole(r"\d{2}[ -]?[A-Z]{5}[ -]?\d{4}[ -]?[A-Z][ -]?[0-9A-Z][ -]?Z[ -]?[0-9A-Z]", re.IGNORECASE),
        checks.gstin_word,
        ("gst", "uin", "जीएसटी", "जी.एस.टी"),
    ),
    _Rule("pan", _whole(_PAN)),
    _Rule(
        "pan",
        _whole(r"[A-Z]{5}[ -]?\d{4}[ -]?[A-Z]", re.IGNORECASE),
        checks.pan_word,
        ("pan", "permanent account", "पैन", "स्थायी"),
    ),
    _Rule(
        "vehicle",
        # The letters of a series are never I or O, which look like digits.
        _whole(
            rf"{_STATE}{_GAP}\d{{1,2}}{_GAP}[A-HJ-NP-Z]{{1,3}}{_GAP}\d{{4}}"
            # Delhi puts the class of the vehicle first: DL 3C AB 1234.
            rf"| DL{_GAP}\d{{1,2}}{_GAP}[A-HJ-NP-Z]{_GAP}[A-HJ-NP-Z]{{1,2}}{_GAP}\d{{4}}"
            rf"| \d{{2}}{_GAP}BH{_GAP}\d{{4}}{_GAP}[A-HJ-NP-Z]{{1,2}}"
        ),
        checks.plate,
    ),
    _Rule(
        "vehicle",
        _whole(rf"{_STATE}{_GAP}\d{{1,2}}{_GAP}[A-HJ-NP-Z]{{1,3}}{_GAP}\d{{1,4}}", re.IGNORECASE),
        checks.plate_word,
        checks.PLATE_STEMS,
    ),
    _Rule(
        "vehicle",
        _pattern(
            rf"(?<![\u0900-\u097f\w]) (?:{'|'.join(_STATES_HINDI.split())}){_GAP}\d{{1,2}}{_GAP}"
            rf"{_SERIES_HINDI}(?:{_GAP}{_SERIES_HINDI}){{0,2}}{_GAP}\d{{4}} (?![\w-])"
            rf"| (?<![\w-]) \d{{2}}{_GAP}बीएच{_GAP}\d{{4}}{_GAP}"
            rf"{_SERIES_HINDI}(?:[ ]?{_SERIES_HINDI})?(?![\u0900-\u0963])"
        ),
        needs=(*_STATES_HINDI.split(), "बीएच"),
    ),
    _Rule(
        "voter_id",
        _whole(r"[A-Z]{3}[ /-]?\d{7} | [A-Z]{2}/\d{1,3}/\d{1,3}/\d{4,7}", re.IGNORECASE),
        checks.voter_word,
        ("voter", "epic", "elect", "मतदाता", "वोटर", "निर्वाचन", "पिक", "ईपीआईसी"),
    ),
    _Rule(
        "passport",
        _whole(r"[A-Z][ -]?[1-9]\d[ ]?\d{5}", re.IGNORECASE),
        checks.passport_word,
        ("passport", "ppt", "पासपोर्ट"),
    ),
    _Rule(
        "driving_licence",
        _whole(rf"{_STATE}[ /-]?\d{{2}}[ /-]{{0,3}}(?:19|20)\d{{2}}[ /-]{{0,3}}\d{{5,7}}", re.IGNORECASE),
        checks.licence_word,
        ("driv", "licen", "dl", "d.l", "ड्राइविंग", "लाइसेंस", "लायसेंस", "अनुज्ञप्ति", "डीएल", "डी.एल"),
        long=True,
    ),
    _Rule(
        "bank",
        _whole(r"[A-Z]{4}[ -]?0[A-Z0-9]{6}", re.IGNORECASE),
        checks.ifsc_word,
        ("ifs", "आईएफएस", "आइएफएस"),
    ),
    _Rule(
        "bank",
        _pattern(rf"{_BEFORE_GROUPS} \d(?:[ ]?-?[ ]?\d){{8,17}} {_AFTER_GROUPS}"),
        checks.account,
        ("a/c", "a.c", "acc", "act", "खात", "काउं", "काउन्ट", "ए/सी"),
        long=True,
    ),
)
_DIGIT = re.compile("[0-9]")
_LONG_NUMBER = re.compile(r"[0-9](?:[ ./()|_-]{0,3}[0-9]){7}")


def mask(text: str, kinds: Collection[str]) -> tuple[str, Counter[str]]:
    """`text` with personal data replaced by the names of its kinds: <EMAIL>, <AADHAAR>, <VOTER_ID> ...

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
    if "@" not in shadow and not _DIGIT.search(shadow):
        return []
    lower, long = shadow.lower(), _LONG_NUMBER.search(shadow) is not None
    found: list[tuple[int, int, str]] = []
    taken = bytearray(len(shadow))
    for rule in _RULES:
        if rule.kind not in kinds or (rule.long and not long):
            continue
        if rule.needs and not any(part in lower for part in rule.needs):
            continue
        tag = f"<{rule.kind.upper()}>"
        for match in rule.pattern.finditer(shadow):
            start, end = match.span()
            before = shadow[max(0, start - 80) : start]
            while taken.find(1, start, end) == -1 and (
                rule.valid is None or rule.valid(shadow[start:end], before, shadow[end : end + 40])
            ):
                taken[start:end] = b"\x01" * (end - start)
                found.append((start, end, rule.kind))
                # Next in a list (9876543210-9876543211) may match only when this one is masked. Finding it
                # here saves `mask` a pass over the whole text for each.
                tail = tag + shadow[end : end + 150]
                following = rule.pattern.search(tail, len(tag))
                if following is None or following.start() > len(tag) + 10 or following.end() > 120:
                    break
                before = tail[: following.start()]
                start, end = end + following.start() - len(tag), end + following.end() - len(tag)
    return found
