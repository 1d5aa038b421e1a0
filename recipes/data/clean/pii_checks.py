"""What a pattern cannot tell about a number: check digits, years, round amounts, and the words beside it.

Every check gets the match and the text before and after it, all in the shadow copy of `pii.py` (ASCII digits,
spaces and dashes), and says whether the match is personal data.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable

Check = Callable[[str, str, str], bool]
"""(match, up to 80 characters before it, up to 40 after it) -> whether it is to be masked."""

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


def _words(text: str) -> str:
    """Alternatives out of a list, one a line; words in Latin letters do not begin inside another word."""
    lines = [line.strip() for line in text.strip().splitlines()]
    latin = "|".join(line for line in lines if line.isascii())
    other = "|".join(line for line in lines if not line.isascii())
    # A tag that masking has left (<PHONE>) is no word.
    return rf"(?:(?<![A-Za-z<])(?:{latin})|(?<![\u0900-\u0963\u0966-\u097f])(?:{other}))"


# What may stand between a word and its number: "Phone (office) no. is: 2345 6789", "खाता संख्या: 1234".
_LINK = (
    r"(?:[\s:;#=.,()\[\]/'\"*|_-]|\b(?:nos?|num|numbers?|ids?|code|card|is|was|are|office|res|residence|home|"
    r"off?|bank|savings?|current|at|on|us|me|him|her|my|his|the|your)\b|"
    r"संख्या|नंबर|नम्बर|क्रमांक|नं|सं|क्र|आईडी|कोड|कार्ड|है|हैं|था|कार्यालय|घर|पर|करें|का|की|के|मेरा|मेरी)"
)
# Looser: anything but a digit or the end of a sentence. The point of an abbreviation ends no sentence.
_NEAR = r"\.?(?:[^\d.!?।]|(?<=\bNo)\.|(?<=\bno)\.|(?<=\bNO)\.|(?<=नं)\.|(?<=सं)\.|(?<=क्र)\.){0,40}"
_AND = r"(?:\s*(?:,|/|&|;|\band\b|\bor\b|और|एवं|तथा|या|व))+\s*"
# The word behind the number: "J8369854 is my passport number", "J8369854 (passport)".
_BACK = r"^(?:[\s(:]|\b(?:is|was|as|my|his|her|the|your|a|an)\b|मेरा|उसका|उनका|आपका|इनका|उनकी|मेरी)*"


def beside(kind: str, words: str, tight: bool = False) -> Check:
    """Whether a word stands before the match or directly behind it, or its neighbour was masked as `kind`."""
    alternatives = _words(words)
    link = rf"(?![A-Za-z]{{2}}){_LINK}{{0,12}}" if tight else _NEAR
    before_match = re.compile(rf"{alternatives}{link}$", re.IGNORECASE)
    in_list = re.compile(rf"<{kind.upper()}>{_AND}$", re.IGNORECASE)
    behind = re.compile(_BACK + alternatives, re.IGNORECASE)

    def check(match: str, before: str, after: str) -> bool:
        return bool(before_match.search(before) or in_list.search(before) or behind.search(after))

    return check


def _groups(match: str) -> list[str]:
    return re.findall(r"\d+", match)


def _years(groups: list[str]) -> bool:
    return all(re.fullmatch(r"1[5-9]\d\d|2[01]\d\d", group) for group in groups)


def _round(groups: list[str]) -> bool:
    return all(group.endswith("0") for group in groups)


_AADHAAR_WORD = re.compile(_words("aadha+r\nadha+r\nuid(?:ai)?\nआधार") + _NEAR + "$", re.IGNORECASE)
# Numbers that say themselves what they are.
_OTHER_NUMBERS = """
orders?
invoices?
bill
receipt
pnr
isbn(?:-?1[03])?
issn
ean
upc
barcode
utr
rrn
ref(?:erence)?
txn
transactions?
tracking
awb
consignment
tender
roll
enrol?lment
registration
regn?
file
policy
survey
patent
imei
निविदा
पत्रांक
रोल
नामांकन
पंजीकरण
पॉलिसी
application
case
serial
ticket
token
a/c
acc(?:oun)?t
ऑर्डर
आर्डर
आदेश
बिल
रसीद
चालान
पीएनआर
आईएसबीएन
यूटीआर
लेनदेन
आवेदन
सीरियल
टिकट
टोकन
खाता
खाते
अकाउंट
"""
_OTHER_NUMBER = re.compile(rf"{_words(_OTHER_NUMBERS)}(?![A-Za-z]{{2}}){_LINK}{{0,8}}$", re.IGNORECASE)
_MONEY_BEFORE = re.compile(r"(?:₹|\$|€|£|\bRs\.?|\bINR|\bUSD|रु\.?|रुपये|रुपए|रू\.?)\s*$", re.IGNORECASE)
_QUANTITY_AFTER = re.compile(
    r"^\s*(?:/-|%|rupees?\b|rs\b|inr\b|people\b|persons\b|votes?\b|crores?\b|lakhs?\b|million\b|billion\b|km\b|"
    r"kg\b|bytes?\b|dollars?\b|years?\b|units?\b|shares?\b|रुपये|रुपए|रुपया|रु\b|रु\.|लोग|व्यक्ति|मत\b|वोट|करोड़|करोड़|"
    r"लाख|किमी|किलो|डॉलर|वर्ष|साल|टन|शेयर|बाइट)",
    re.IGNORECASE,
)


def _amount(before: str, after: str) -> bool:
    return bool(_MONEY_BEFORE.search(before) or _QUANTITY_AFTER.search(after))


def aadhaar(match: str, before: str, after: str) -> bool:
    groups = _groups(match)
    if not verhoeff_valid("".join(groups)):
        return False
    if _AADHAAR_WORD.search(before):
        return True
    # One row of four-digit numbers in ten passes Verhoeff's check.
    if len(groups) == 3 and (_years(groups) or _round(groups)):
        return False
    if len(groups) == 1 and re.fullmatch(
        r"20\d\d(?:0[1-9]|1[0-2])(?:[0-2]\d|3[01])(?:[01]\d|2[0-3])[0-5]\d", match
    ):
        return False  # A point in time: 202401151230.
    return not (_OTHER_NUMBER.search(before) or _amount(before, after))


def spoken_of_as_aadhaar(match: str, before: str, after: str) -> bool:
    return bool(_AADHAAR_WORD.search(before)) and verhoeff_valid("".join(_groups(match)))


def mobile(match: str, before: str, after: str) -> bool:
    """Rules out amounts, ranges, and numbers that are said to be something else."""
    if match[0] in "+(" or match.startswith("00"):
        return True
    groups = _groups(match)
    # Round amounts and ranges of them: 7000000000, 60000-80000.
    if re.fullmatch(r"\d{3}00[ -]\d{3}00|\d{4}0{6}", match):
        return False
    if re.fullmatch(r"\d{5} ?- ?\d{5}", match) and 0 <= int(groups[1]) - int(groups[0]) < 1000:
        return False  # A range: pages 61234-61240.
    return not (_OTHER_NUMBER.search(before) or _amount(before, after))


_PHONE_WORDS = """
(?:tele)?phones?
tel
ph
mobiles?
mob
cell
whats ?app
contact
call
fax
dial
sms
(?:टेली)?फ[ोा]न
(?:टेली)?फ़ोन
मोबाइल
मो
दूरभाष
संपर्क
सम्पर्क
व्हाट्सएप
व्हाट्सऐप
वाट्सएप
कॉल
फैक्स
"""
_phone_word = beside("phone", _PHONE_WORDS, tight=True)


def spoken_of_as_phone(match: str, before: str, after: str) -> bool:
    groups = _groups(match)
    return not (_years(groups) or _round(groups) or _amount(before, after)) and _phone_word(
        match, before, after
    )


_NO_ADDRESS = re.compile(
    r"(?:version|\bver|\brelease|\bbuild|firmware|section|\bsec|clause|chapter|\bpara|paragraph|\brule|article|"
    r"\bfigure|\bfig|\btable|android|chrome|firefox|windows|python|\bios|संस्करण|वर्जन|वर्ज़न|धारा|अनुच्छेद|नियम|खंड|"
    r"अध्याय|सारणी)s?\.?[ :]{0,2}(?:no\.? ?|संख्या )?$",
    re.IGNORECASE,
)


def public_ip(match: str, before: str, after: str) -> bool:
    if re.fullmatch(r"\d\.\d\.\d\.\d", match) or _NO_ADDRESS.search(before):
        return False  # Sections are numbered like this; few households have such an address.
    try:
        return ipaddress.ip_address(match).is_global
    except ValueError:
        return False


def plate(match: str, before: str, after: str) -> bool:
    """Rules out headlines: PRICES UP 20 BY 2019, OR 12 MAR 2020."""
    words = match.split(" ")
    if len(words) != 4 or not re.fullmatch(r"1[5-9]\d\d|20\d\d", words[3]):
        return True
    if words[2] in ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "DEC"):
        return False
    small_words = ("A", "AD", "AM", "AS", "AT", "BC", "BY", "BUT", "FY", "MAN", "PER", "THE", "WAS")
    parties = ("AAP", "BJD", "BJP", "BRS", "BSP", "DMK", "JDS", "JMM", "RJD", "TDP", "TMC", "TRS")
    if words[2] in ("CM", "LS", "MLA", "MLC", "MP", "PM", *parties):
        return False  # Results of elections: AP 13 MLA 2024, UP 80 BJP 2024.
    return not (words[0] in ("AS", "LA", "OR", "UP") and words[2] in small_words)


pan_word = beside("pan", "pan\npermanent account\nपैन\nस्थायी खाता", tight=True)
gstin_word = beside("gstin", "gst(?:in)?\nuin\nजीएसटी(?:आईएन)?\nजी\\.एस\\.टी", tight=True)
vid_word = beside("vid", "vid\nvirtual id(?:entity)?\nवीआईडी\nवर्चुअल आईडी\nवर्चुअल पहचान")
upi_word = beside("upi", "upi\nvpa\nbhim\ngoogle pay\ngpay\nphonepe\nयूपीआई\nभीम", tight=True)
PLATE_STEMS = (
    *(
        "vehicle",
        "motorcycle",
        "scooter",
        "truck",
        "taxi",
        "registration",
        "regn",
        "reg ",
        "reg.",
        "plate",
        "car ",
    ),
    *(
        "bike",
        "bus ",
        "jeep",
        "वाहन",
        "गाड़ी",
        "गाड़ी",
        "कार",
        "बाइक",
        "मोटरसाइकिल",
        "स्कूटर",
        "ट्रक",
        "बस",
        "टैक्सी",
        "जीप",
    ),
    *("पंजीकरण", "पंजीयन"),
)
plate_word = beside(
    "vehicle", "\n".join(word.strip().replace(".", r"\.") for word in PLATE_STEMS), tight=True
)
voter_word = beside(
    "voter_id",
    """
    voters?
    epic
    election (?:card|id|photo)
    electors?
    elector's
    मतदाता
    वोटर
    निर्वाचन
    इपिक
    एपिक
    ईपीआईसी
    """,
)
passport_word = beside("passport", "passports?\nppt\nपासपोर्ट")
licence_word = beside(
    "driving_licence",
    """
    driving
    driver'?s?'? licen[cs]e
    licen[cs]e
    d\\.?l
    ड्राइविंग
    लाइसेंस
    लायसेंस
    अनुज्ञप्ति
    डीएल
    डी\\.एल
    """,
)
ifsc_word = beside("bank", "ifsc?\nifs\nआईएफएससी\nआइएफएससी\nआईएफएस")
_account_word = beside(
    "bank",
    """
    a/c
    a\\.c
    acc?t
    acc
    accounts?
    खाता
    खाते
    अकाउंट
    एकाउंट
    अकाउन्ट
    ए/सी
    """,
    tight=True,
)


def account(match: str, before: str, after: str) -> bool:
    groups = _groups(match)
    if len(groups) > 1 and (_years(groups) or _round(groups) or min(map(len, groups)) < 2):
        return False
    return not _amount(before, after) and _account_word(match, before, after)
