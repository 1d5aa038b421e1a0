"""Short stories and scenes: text that no question asks about.

A line of a story is a template in each language (see `grammar`) and the list that its `{a}` is taken from. Of
the other marks, some stay the same throughout a story (`{s}` is the hero, `{p}` a friend of the same gender,
`{when}` a time, `{t}` a village), others are drawn anew for every line: `{n}` a number, `{c}` a colour, `{q}`
a quality, `{place}` a place.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from recipes.data.corpus import vocabulary as words
from recipes.data.corpus.grammar import Language, Word, capitalise, fill

FILLERS: dict[str, tuple[Word, ...]] = {
    "animal": words.ANIMALS,
    "burden": words.BURDENS,
    "character": words.CHARACTERS,
    "indoors": words.INDOORS,
    "mood": words.MOODS,
    "outdoors": words.OUTDOORS,
    "plant eater": words.PLANT_EATERS,
    "road mood": words.ROAD_MOODS,
    "small animal": words.SMALL_ANIMALS,
    "stranger": words.STRANGERS,
    "talk": words.TALK,
    "thing": words.THINGS,
    "vegetable": words.VEGETABLES,
}


@dataclass(frozen=True)
class Line:
    """One sentence of a story; `filler` names the list of its `{a}`, or a kind of fact about the hero."""

    en: str
    hi: str
    filler: str = ""


STORIES: tuple[tuple[Line, ...], ...] = (
    (
        Line("{when} {s} went to the market.", "{when} {s} बाज़ार [गया|गई]।"),
        Line(
            "[He|She] bought {a.an} from an old shopkeeper.",
            "उसने एक बूढ़े दुकानदार से एक {a} <खरीदा|खरीदी>।",
            "thing",
        ),
        Line("On the way [he|she] met {p}.", "रास्ते में उसकी {p} से भेंट हुई।"),
        Line("They talked about {a} for a long time.", "दोनों ने देर तक {a} की बातें कीं।", "talk"),
        Line("Then {s} walked home to {a}.", "फिर {s} पैदल अपने शहर {a} लौट [गया|गई]।", "home"),
    ),
    (
        Line("{s} could not find [his|her] {a}.", "{s} को <अपना|अपनी> {a} नहीं मिल <रहा था|रही थी>।", "thing"),
        Line("[He|She] looked {a}, but found nothing.", "उसने {a} ढूँढा, पर कुछ नहीं मिला।", "indoors"),
        Line("{p} came to help.", "{p} उसकी मदद करने [आया|आई]।"),
        Line("At last they saw it {a}.", "आखिरकार वह उन्हें {a} दिखाई दिया।", "indoors"),
        Line(
            "{s} laughed and thanked [his|her] friend.",
            "{s} ने हँसकर [अपने दोस्त|अपनी सहेली] को धन्यवाद दिया।",
        ),
    ),
    (
        Line("It rained all day.", "दिन भर बारिश होती रही।"),
        Line(
            "{s} stayed at home and was {a}.",
            "{s} घर पर ही [रुका रहा|रुकी रही]। वह बहुत [{a}|{a.f}] [था|थी]।",
            "mood",
        ),
        Line(
            "[His|Her] {a} slept near the door.",
            "<उसका|उसकी> {a} दरवाज़े के पास सो <रहा था|रही थी>।",
            "pet",
        ),
        Line("[He|She] made tea and read a book.", "उसने चाय बनाई और एक किताब पढ़ी।"),
        Line(
            "In the evening the sky cleared and the children ran outside.",
            "शाम को आसमान साफ़ हुआ और बच्चे बाहर दौड़ पड़े।",
        ),
    ),
    (
        Line("{when} there was a fair in {t}.", "{when} {t} में मेला लगा।"),
        Line("{s} and {p} went there together.", "{s} और {p} वहाँ साथ-साथ [गए|गईं]।"),
        Line(
            "They saw {n} {c} balloons and ate sweets.",
            "उन्होंने {n} {c.pl} गुब्बारे देखे और मिठाई खाई।",
        ),
        Line("{s} won {a.an} in a game.", "{s} ने एक खेल में एक {a} <जीता|जीती>।", "thing"),
        Line(
            "A man played the {a} and everybody danced.",
            "एक आदमी {a} बजा रहा था और सब नाच रहे थे।",
            "instrument",
        ),
    ),
    (
        Line("In spring {s} planted {n} seeds in the garden.", "वसंत में {s} ने बगीचे में {n} बीज बोए।"),
        Line(
            "Every day [he|she] gave them water from the well.",
            "वह उन्हें रोज़ कुएँ का पानी [देता था|देती थी]।",
        ),
        Line(
            "One night {a.an} came and ate two of the plants.",
            "एक रात एक {a} <आया|आई> और दो पौधे खा <गया|गई>।",
            "plant eater",
        ),
        Line(
            "{s} built a {c} fence, and the other plants grew tall.",
            "{s} ने {c.f} बाड़ लगाई और बाकी पौधे बड़े हो गए।",
        ),
        Line("{p} came to see the flowers.", "{p} फूल देखने [आया|आई]।"),
    ),
    (
        Line(
            "An old woman was carrying a heavy {a}.",
            "एक बूढ़ी औरत एक भारी {a} लेकर चल रही थी।",
            "burden",
        ),
        Line("{s} saw her and stopped.", "{s} उसे देखकर रुक [गया|गई]।"),
        Line(
            "[He|She] carried it to her house in {t}.",
            "वह उसका बोझ उठाकर {t} में उसके घर तक ले [गया|गई]।",
        ),
        Line("The old woman gave [him|her] {n} {a.pl}.", "बूढ़ी औरत ने उसे {n} {a.pl} <दिए|दीं>।", "fruit"),
        Line("On the way back {s} sang softly.", "लौटते समय {s} धीरे-धीरे [गाता रहा|गाती रही]।"),
    ),
    (
        Line("{when} {s} set out for {t}.", "{when} {s} {t} के लिए [निकला|निकली]।"),
        Line("The road was long and the sun was hot.", "रास्ता लंबा था और धूप तेज़ थी।"),
        Line("After {n} hours [he|she] was {a}.", "{n} घंटे बाद वह [{a}|{a.f}] [था|थी]।", "road mood"),
        Line("[He|She] rested {a}.", "उसने {a} आराम किया।", "outdoors"),
        Line(
            "At night [he|she] knocked on the door of {p}.",
            "रात को वहाँ पहुँचकर उसने {p} का दरवाज़ा खटखटाया।",
        ),
    ),
    (
        Line(
            "{s} made a {c} kite from paper and bamboo.",
            "{s} ने कागज़ और बाँस से एक {c.f} पतंग बनाई।",
        ),
        Line("The wind was strong and the kite flew high.", "हवा तेज़ थी और पतंग ऊँची उड़ी।"),
        Line("Suddenly the string broke.", "अचानक डोर टूट गई।"),
        Line("The kite came down {a}.", "पतंग {a} जा गिरी।", "outdoors"),
        Line("{p} brought it back before dark.", "{p} उसे अँधेरा होने से पहले वापस ले [आया|आई]।"),
    ),
    (
        Line("At night {n} children sat around {s}.", "रात को {n} बच्चे {s} के चारों ओर बैठ गए।"),
        Line(
            "[He|She] told them a story about a king and {a.an}.",
            "उसने उन्हें एक राजा और एक {a.obl} की कहानी सुनाई।",
            "animal",
        ),
        Line("The king was very {a}.", "राजा बहुत {a} था।", "character"),
        Line("In the end the animal saved his life.", "अंत में उस जानवर ने राजा की जान बचाई।"),
        Line("The children asked for one more story.", "बच्चों ने एक और कहानी माँगी।"),
    ),
    (
        Line("{when} {s} invited {p} to dinner.", "{when} {s} ने {p} को खाने पर बुलाया।"),
        Line(
            "[He|She] cooked {a} with rice and lentils.",
            "उसने दाल-चावल के साथ {a} <बनाया|बनाई>।",
            "vegetable",
        ),
        Line("{p} brought {n} {c} flowers.", "{p} {n} {c.pl} फूल [लाया|लाई]।"),
        Line("They ate slowly and told each other jokes.", "दोनों ने धीरे-धीरे खाना खाया और चुटकुले सुनाए।"),
        Line("It was late when {p} went home.", "{p} जब घर [लौटा|लौटी], तब रात हो चुकी थी।"),
    ),
    (
        Line("{when} {a.an} came to {s}.", "{when} एक {a} {s} के पास आया।", "stranger"),
        Line("He had lost his way to {t}.", "वह {t} का रास्ता भूल गया था।"),
        Line("{s} gave him water and explained the way.", "{s} ने उसे पानी पिलाया और रास्ता समझाया।"),
        Line(
            "He thanked [him|her] and gave [him|her] {q.an} {a}.",
            "उसने धन्यवाद देकर {s} को एक <{q}|{q.f}> {a} <दिया|दी>।",
            "thing",
        ),
        Line("They never met again.", "वे फिर कभी नहीं मिले।"),
    ),
    (
        Line("{s} found {q.an} {a} {place}.", "{s} को {place} एक <{q}|{q.f}> {a} <मिला|मिली>।", "thing"),
        Line("Nobody knew the owner.", "किसी को उसके मालिक का पता नहीं था।"),
        Line("[He|She] asked {a.an}.", "उसने एक {a.obl} से पूछा।", "stranger"),
        Line("It belonged to {p}.", "वह चीज़ {p} की थी।"),
        Line("{p} was pleased and invited {s} to tea.", "{p} ने खुश होकर {s} को चाय पर बुलाया।"),
    ),
    (
        Line("It was a cold night and a strong wind was blowing.", "ठंडी रात थी और तेज़ हवा चल रही थी।"),
        Line("{s} heard a noise {a}.", "{s} ने {a} एक आवाज़ सुनी।", "indoors"),
        Line("It was only {a.an}.", "वह तो बस एक {a} <था|थी>।", "small animal"),
        Line("[He|She] shut the door and lit a lamp.", "उसने दरवाज़ा बंद किया और दीया जलाया।"),
        Line("In the morning everything was quiet.", "सुबह सब कुछ शांत था।"),
    ),
    (
        Line("{s} and {p} were sitting by the river.", "{s} और {p} नदी के किनारे [बैठे थे|बैठी थीं]।"),
        Line("They counted {n} boats.", "उन्होंने {n} नावें गिनीं।"),
        Line("In one boat sat {a.an}.", "एक नाव में एक {a} बैठा था।", "stranger"),
        Line("He waved and gave them some fish.", "उसने हाथ हिलाया और उन्हें कुछ मछलियाँ दीं।"),
        Line("That evening there was fish for dinner.", "उस शाम खाने में मछली बनी।"),
    ),
    (
        Line(
            "{s} wants to repair an old house in {t}.",
            "{s} {t} का एक पुराना घर ठीक करना [चाहता|चाहती] है।",
        ),
        Line("For this [he|she] needs {n} {a.pl}.", "इसके लिए उसे {n} {a.pl} चाहिए।", "thing"),
        Line("{a.an} will help [him|her].", "एक {a} उसकी मदद करेगा।", "stranger"),
        Line("The work will take {n} weeks.", "काम में {n} हफ़्ते लगेंगे।"),
        Line("In the end the roof will be {c}.", "अंत में छत {c.f} होगी।"),
    ),
    (
        Line("{s} is writing a letter to {p}.", "{s} {p} को चिट्ठी लिख [रहा|रही] है।"),
        Line("It is about {a}.", "चिट्ठी {a} के बारे में है।", "talk"),
        Line("The postman will come at {n} o'clock.", "डाकिया {n} बजे आएगा।"),
        Line("The letter will take {n} days to reach {t}.", "चिट्ठी को {t} पहुँचने में {n} दिन लगेंगे।"),
        Line("{p} will be very happy to read it.", "{p} उसे पढ़कर बहुत खुश [होगा|होगी]।"),
    ),
)

SCENES: tuple[Line, ...] = (
    Line("There is {q.an} {a} {place}.", "{place} एक <{q}|{q.f}> {a} <रखा|रखी> है।", "thing"),
    Line("{n} {c} {a.pl} are lying {place}.", "{place} {n} <{c.pl}|{c.f}> {a.pl} <पड़े|पड़ी> हैं।", "thing"),
    Line("{s} has put {c.an} {a} {place}.", "{s} ने {place} एक <{c}|{c.f}> {a} <रखा|रखी> है।", "thing"),
    Line(
        "Somebody has left {n} {q} {a.pl} {place}.",
        "किसी ने {place} {n} <{q.pl}|{q.f}> {a.pl} छोड़ <दिए|दी> हैं।",
        "thing",
    ),
    Line(
        "{s} is looking for {q.an} {a}.",
        "{s} एक <{q}|{q.f}> {a} ढूँढ [रहा|रही] है।",
        "thing",
    ),
    Line(
        "{p} has come from {t} with {q.an} {a}.",
        "{p} {t} से एक <{q}|{q.f}> {a} लेकर [आया|आई] है।",
        "thing",
    ),
    Line(
        "{a.an} from {t} is selling {c} clothes.",
        "{t} का एक {a} {c.pl} कपड़े बेच रहा है।",
        "stranger",
    ),
    Line(
        "{a.an} is running across the field.",
        "खेत में एक {a} दौड़ <रहा|रही> है।",
        "plant eater",
    ),
)
_UNUSED = words.NUMBERS[0]  # given as the answer to lines without `{a}`


def tell(lines: tuple[Line, ...], language: Language, rng: Random, hero: Word, friend: Word,
         facts: dict[str, Word]) -> str:  # fmt: skip
    """The text of `lines` about `hero`, with the same `friend`, time and town throughout.

    `facts` are the hero's own answers by kind, for lines that mention one: stories never contradict a fact.
    """
    common = {"p": friend, "when": rng.choice(words.TIMES), "t": rng.choice(words.VILLAGES)}
    told = []
    for line in lines:
        answer = facts.get(line.filler) or (rng.choice(FILLERS[line.filler]) if line.filler else _UNUSED)
        drawn = {
            "n": rng.choice(words.NUMBERS),
            "c": rng.choice(words.COLOURS),
            "q": rng.choice(words.QUALITIES),
            "place": rng.choice(words.INDOORS + words.OUTDOORS),
        }
        template = line.en if language == "en" else line.hi
        told.append(capitalise(fill(template, hero, answer, language, **common, **drawn)))
    return " ".join(told)
