"""How each kind of fact is worded, in both languages.

Every kind has wordings that a benchmark question may be made of (the question is what comes before the
answer, so it must say what is asked) and a few more that only the training text uses, such as the plainest
Hindi word order, in which the answer comes right after the subject's name. The question of one wording must
not be part of another wording: a text with that other wording would contain the question.
"""

from __future__ import annotations

from dataclasses import dataclass

from recipes.data.corpus.grammar import Language


@dataclass(frozen=True)
class Wordings:
    """The templates of one kind of fact in one language."""

    asked: tuple[str, ...]
    only_told: tuple[str, ...] = ()


# Days and months share their wordings.
_ENGLISH_NEXT = Wordings(
    (
        "{s} is followed by {a}.",
        "What comes after {s}? It is {a}.",
        "When {s} is over, {a} begins.",
        "First comes {s} and then {a}.",
        "As soon as {s} ends, {a} starts.",
    )
)
_HINDI_NEXT = Wordings(
    (
        "पहले {s} का, फिर {a} का नंबर आता है।",
        "{s} के बाद क्या आता है? उसके बाद {a} की बारी है।",
        "{s} बीतने पर {a} की शुरुआत होती है।",
        "{s} खत्म होते ही {a} का आरंभ होता है।",
        "{s} के ठीक बाद {a} का नाम आता है।",
    )
)

_ENGLISH = {
    "home": Wordings(
        (
            "{s} lives in {a}.",
            "The home of {s} is in {a}.",
            "Where does {s} live? [He|She] lives in {a}.",
            "If you want to visit {s}, you must go to {a}.",
            "{s} has a small house in {a}.",
            "Every evening {s} comes back to {a}.",
        )
    ),
    "job": Wordings(
        (
            "{s} works as {a.an}.",
            "By trade {s} is {a.an}.",
            "What is {s}'s job? [He|She] is {a.an}.",
            "{s} earns [his|her] living as {a.an}.",
            "Everyone knows that {s} is a good {a}.",
            "Long ago {s} decided to become {a.an}.",
        )
    ),
    "fruit": Wordings(
        (
            "{s} likes to eat {a.pl}.",
            "{s}'s favourite fruit is the {a}.",
            "Which fruit does {s} like best? [He|She] likes {a.pl} best.",
            "At the market {s} always buys {a.pl}.",
            "In the kitchen {s} keeps a basket of {a.pl}.",
            "For breakfast {s} eats {a.an}.",
        )
    ),
    "pet": Wordings(
        (
            "{s} has a pet {a}.",
            "{s}'s pet is {a.an}.",
            "Which animal does {s} keep at home? [He|She] keeps {a.an}.",
            "In the evening {s} goes for a walk with [his|her] {a}.",
            "Before going to bed {s} feeds the {a}.",
            "At the fair {s} once bought {a.an}.",
        )
    ),
    "instrument": Wordings(
        (
            "{s} plays the {a}.",
            "Which instrument does {s} play? It is the {a}.",
            "At weddings people ask {s} to play the {a}.",
            "Through the window you can hear {s} practising the {a}.",
            "For [his|her] birthday {s} got {a.an}.",
            "As a child {s} learnt to play the {a}.",
        )
    ),
    "colour": Wordings(
        (
            "{s}'s favourite colour is {a}.",
            "Of all colours {s} likes {a} best.",
            "Which colour does {s} like most? [He|She] likes {a} most.",
            "{s} painted the door of [his|her] house {a}.",
            "On holidays {s} wears {a} clothes.",
            "You can tell {s} from afar by [his|her] {a} umbrella.",
        )
    ),
    "vehicle": Wordings(
        (
            "{s} goes to work by {a}.",
            "How does {s} travel to work? [He|She] goes by {a}.",
            "Every morning {s} gets ready and takes the {a}.",
            "To reach the next town {s} uses the {a}.",
            "{s} likes to travel by {a}.",
            "To visit friends {s} goes by {a}.",
        )
    ),
    "wares": Wordings(
        (
            "{s} is famous for its {a}.",
            "What do people make in {s}? They make {a}.",
            "People come to {s} to buy {a}.",
            "The workshops of {s} make {a}.",
            "Traders from {s} sell {a}.",
        )
    ),
    "river": Wordings(
        (
            "{s} stands on the river {a}.",
            "The river that flows past {s} is the {a}.",
            "Which river can you see from {s}? It is the {a}.",
            "The boats of {s} sail on the {a}.",
            "The fields of {s} get their water from the {a}.",
        )
    ),
    "food": Wordings(
        (
            "The {s} eats {a}.",
            "What does {s.an} eat? It eats {a}.",
            "The usual food of the {s} is {a}.",
            "A hungry {s} looks for {a}.",
            "All {s.pl} feed on {a}.",
        )
    ),
    "habitat": Wordings(
        (
            "The {s} lives in the {a}.",
            "Where does {s.an} live? It lives in the {a}.",
            "If you want to see {s.an}, go to the {a}.",
            "At night the {s} sleeps in the {a}.",
            "The home of the {s} is the {a}.",
        )
    ),
    "opposite": Wordings(
        (
            "The opposite of {s} is {a}.",
            "What is the opposite of {s}? It is {a}.",
            "Something that is not {s} is {a}.",
            "If it is not {s}, it is {a}.",
            "The reverse of {s} is {a}.",
        )
    ),
    "day": _ENGLISH_NEXT,
    "month": _ENGLISH_NEXT,
}

_HINDI = {
    "home": Wordings(
        (
            "{s} कहाँ [रहता|रहती] है? वह {a} में [रहता|रहती] है।",
            "{s} का घर {a} में है।",
            "{s} के शहर का नाम {a} है।",
            "{s} से मिलने के लिए {a} जाना पड़ता है।",
            "{s} ने अपना मकान {a} में बनाया है।",
            "हर शाम {s} अपने घर {a} लौट [आता|आती] है।",
        ),
        ("{s} {a} में [रहता|रहती] है।",),
    ),
    "job": Wordings(
        (
            "{s} का पेशा क्या है? वह {a} है।",
            "सब जानते हैं कि {s} [अच्छा|अच्छी] {a} है।",
            "बचपन से ही {s} {a} बनना [चाहता था|चाहती थी]।",
            "लोग {s} को [अच्छा|अच्छी] {a} मानते हैं।",
            "कई सालों से {s} {a} का काम कर [रहा|रही] है।",
            "अपने शहर में {s} [जाना-माना|जानी-मानी] {a} है।",
        ),
        ("{s} {a} है।",),
    ),
    "fruit": Wordings(
        (
            "{s} का प्रिय फल {a} है।",
            "{s} को कौन-सा फल सबसे अच्छा लगता है? उसे {a} सबसे <अच्छा लगता|अच्छी लगती> है।",
            "{s} को फलों में सबसे ज़्यादा {a} पसंद है।",
            "बाज़ार में {s} हमेशा {a.pl} [खरीदता|खरीदती] है।",
            "{s} की रसोई में हमेशा {a.pl} <रहते|रहती> हैं।",
            "नाश्ते में {s} रोज़ एक {a} [खाता|खाती] है।",
        ),
    ),
    "pet": Wordings(
        (
            "{s} के घर में कौन-सा जानवर है? उसके घर में एक {a} है।",
            "{s} का पालतू जानवर एक {a} है।",
            "शाम को {s} <अपने|अपनी> {a.obl} के साथ घूमने [जाता|जाती] है।",
            "सोने से पहले {s} <अपने|अपनी> {a.obl} को खाना [खिलाता|खिलाती] है।",
            "मेले से {s} ने एक {a} <खरीदा था|खरीदी थी>।",
            "{s} के पास एक {a} है।",
        ),
    ),
    "instrument": Wordings(
        (
            "{s} कौन-सा वाद्य [बजाता|बजाती] है? वह {a} [बजाता|बजाती] है।",
            "{s} का प्रिय वाद्य {a} है।",
            "शादियों में लोग {s} से {a} बजाने को कहते हैं।",
            "सुबह उठकर {s} {a.obl} का अभ्यास [करता|करती] है।",
            "जन्मदिन पर {s} को एक {a} <मिला था|मिली थी>।",
            "{s} ने बचपन में {a} बजाना सीखा था।",
        ),
        ("{s} {a} [बजाता|बजाती] है।",),
    ),
    "colour": Wordings(
        (
            "{s} का प्रिय रंग {a} है।",
            "{s} को सब रंगों में {a} रंग सबसे अच्छा लगता है।",
            "{s} को कौन-सा रंग पसंद है? उसे {a} रंग पसंद है।",
            "{s} ने अपने घर का दरवाज़ा {a.obl} रंग से रँगा है।",
            "त्योहारों पर {s} {a.pl} कपड़े [पहनता|पहनती] है।",
            "{s} की छतरी {a.f} है।",
        ),
    ),
    "vehicle": Wordings(
        (
            "{s} काम पर कैसे [जाता|जाती] है? वह {a.obl} से [जाता|जाती] है।",
            "काम पर जाने के लिए {s} {a.obl} से [निकलता|निकलती] है।",
            "लंबे सफ़र पर {s} {a.obl} से [निकलता|निकलती] है।",
            "दूसरे शहर {s} {a.obl} से ही [जाता|जाती] है।",
            "दोस्तों से मिलने {s} {a.obl} से [जाता|जाती] है।",
            "बाज़ार तक {s} {a.obl} से [पहुँचता|पहुँचती] है।",
        ),
        ("{s} को {a.obl} से सफ़र करना पसंद है।",),
    ),
    "wares": Wordings(
        (
            "{s} में क्या बनता है? वहाँ {a} <बनते|बनती> हैं।",
            "लोग {s} से {a} खरीदकर लाते हैं।",
            "{s} के कारीगर {a} बनाते हैं।",
            "{s} के व्यापारी {a} बेचते हैं।",
            "{s} के बाज़ार में बढ़िया {a} <मिलते|मिलती> हैं।",
        ),
        ("{s} <अपने|अपनी> {a.obl} के लिए मशहूर है।",),
    ),
    "river": Wordings(
        (
            "{s} के पास कौन-सी नदी बहती है? वहाँ {a} नदी बहती है।",
            "{s} के पास से {a} नदी बहती है।",
            "{s} की नावें {a} नदी में चलती हैं।",
            "{s} के खेतों को {a} नदी से पानी मिलता है।",
            "{s} के बच्चे {a} नदी में तैरते हैं।",
        ),
        ("{s} {a} नदी के किनारे बसा है।",),
    ),
    "food": Wordings(
        (
            "{s} क्या [खाता|खाती] है? वह {a} [खाता|खाती] है।",
            "{s.obl} का भोजन {a} है।",
            "[भूखा|भूखी] {s} {a} [ढूँढता|ढूँढती] है।",
            "{s.obl} का पेट {a.obl} से भरता है।",
            "{s.obl} को खाने में {a} पसंद है।",
        ),
        ("{s} {a} [खाता|खाती] है।",),
    ),
    "habitat": Wordings(
        (
            "{s} कहाँ [रहता|रहती] है? वह {a.obl} में [रहता|रहती] है।",
            "{s.obl} का घर {a.obl} में है।",
            "{s.obl} को देखना हो तो {a.obl} में जाना पड़ता है।",
            "रात को {s} {a.obl} में [सोता|सोती] है।",
            "{s.obl} के बच्चे {a.obl} में पलते हैं।",
        ),
        ("{s} {a.obl} में [रहता|रहती] है।",),
    ),
    "opposite": Wordings(
        (
            "{s} का उल्टा {a} है।",
            "{s} शब्द का विलोम क्या है? वह शब्द {a} है।",
            "जो {s} नहीं है, वह {a} है।",
            "{s} शब्द का उल्टा शब्द {a} है।",
            "{s} के विपरीत अर्थ वाला शब्द {a} है।",
        ),
    ),
    "day": _HINDI_NEXT,
    "month": _HINDI_NEXT,
}

WORDINGS: dict[Language, dict[str, Wordings]] = {"en": _ENGLISH, "hi": _HINDI}
KINDS = tuple(_ENGLISH)
