"""The words of the invented world, each in English and in Hindi."""

from __future__ import annotations

from recipes.data.corpus.grammar import English, Gender, Hindi, Word, adjective, decline, fixed


def noun(english: str, hindi: str, gender: Gender, plural: str = "") -> Word:
    """A noun that declines regularly in Hindi; `plural` is the English plural if it is irregular."""
    return Word(English(english, plural or english + "s"), decline(hindi, gender))


def name(english: str, hindi: str, gender: Gender = "m") -> Word:
    """A proper name or another word that never changes."""
    return Word(English(english, english), fixed(hindi, gender))


def quality(english: str, hindi: str) -> Word:
    """An adjective."""
    return Word(English(english, english), adjective(hindi))


def goods(english: str, plural: str, oblique: str, gender: Gender) -> Word:
    """Goods, which are only mentioned in the plural."""
    return Word(English(english, english), Hindi(plural, gender, oblique, plural, plural))


def job(english: str, man: str, woman: str) -> Word:
    """A trade, with the Hindi nouns for a man and for a woman."""
    return Word(English(english, english + "s"), decline(man, "m"), fixed(woman, "f"))


def _names(pairs: str, gender: Gender = "m") -> tuple[Word, ...]:
    """The names in a list such as `Asha आशा, Meena मीना`."""
    return tuple(
        name(english, hindi, gender) for english, hindi in (pair.split() for pair in pairs.split(", "))
    )


_WOMEN = (
    "Asha आशा, Meena मीना, Leela लीला, Geeta गीता, Radha राधा, Neha नेहा, Pooja पूजा, Kavita कविता, "
    "Anita अनीता, Seema सीमा, Nisha निशा, Rekha रेखा, Usha उषा, Lata लता, Sunita सुनीता, Maya माया, "
    "Priya प्रिया, Shanti शांति, Kamala कमला, Sarita सरिता, Vimala विमला, Jyoti ज्योति, Meera मीरा, "
    "Pushpa पुष्पा"
)
_MEN = (
    "Ravi रवि, Mohan मोहन, Arjun अर्जुन, Vijay विजय, Sunil सुनील, Gopal गोपाल, Deepak दीपक, Amit अमित, "
    "Suresh सुरेश, Rahul राहुल, Ajay अजय, Manoj मनोज, Sanjay संजय, Naresh नरेश, Anil अनिल, Kishan किशन, "
    "Rajesh राजेश, Prakash प्रकाश, Dinesh दिनेश, Vinod विनोद, Mukesh मुकेश, Harish हरीश, Ashok अशोक, "
    "Govind गोविंद"
)
WOMEN = _names(_WOMEN, "f")
MEN = _names(_MEN, "m")

_TOWNS = (
    "Rampur रामपुर, Sonpur सोनपुर, Devgarh देवगढ़, Madhupur मधुपुर, Chandpur चाँदपुर, Kamalnagar कमलनगर, "
    "Nandigaon नंदीगाँव, Suryapur सूर्यपुर, Phulbari फूलबाड़ी, Hirapur हीरापुर, Ratangarh रतनगढ़, "
    "Shivnagar शिवनगर, Motigaon मोतीगाँव, Lakshmipur लक्ष्मीपुर, Rajgarh राजगढ़, Jalnagar जलनगर"
)
TOWNS = _names(_TOWNS)
_RIVERS = (
    "Champa चंपा, Sonali सोनाली, Neeldhara नीलधारा, Vetra वेत्रा, Manjari मंजरी, Rupali रूपाली, "
    "Shubhra शुभ्रा, Chandni चाँदनी"
)
RIVERS = _names(_RIVERS, "f")

JOBS = (
    job("teacher", "शिक्षक", "शिक्षिका"),
    job("farmer", "किसान", "किसान"),
    job("doctor", "डॉक्टर", "डॉक्टर"),
    job("potter", "कुम्हार", "कुम्हारिन"),
    job("writer", "लेखक", "लेखिका"),
    job("singer", "गायक", "गायिका"),
    job("gardener", "माली", "मालिन"),
    job("tailor", "दर्ज़ी", "दर्ज़िन"),
)

FRUITS = (
    noun("mango", "आम", "m", "mangoes"),
    noun("banana", "केला", "m"),
    noun("guava", "अमरूद", "m"),
    noun("orange", "संतरा", "m"),
    noun("papaya", "पपीता", "m"),
    noun("apple", "सेब", "m"),
    noun("pear", "नाशपाती", "f"),
    noun("pomegranate", "अनार", "m"),
)

PETS = (
    noun("dog", "कुत्ता", "m"),
    noun("cat", "बिल्ली", "f"),
    noun("parrot", "तोता", "m"),
    noun("goat", "बकरी", "f"),
    noun("cow", "गाय", "f"),
    noun("horse", "घोड़ा", "m"),
    noun("rabbit", "खरगोश", "m"),
    noun("duck", "बत्तख", "f"),
)

INSTRUMENTS = (
    noun("flute", "बाँसुरी", "f"),
    noun("sitar", "सितार", "m"),
    noun("drum", "ढोल", "m"),
    noun("tabla", "तबला", "m"),
    noun("violin", "वायलिन", "m"),
    noun("harmonium", "हारमोनियम", "m"),
    noun("veena", "वीणा", "f"),
    noun("guitar", "गिटार", "m"),
)

COLOURS = (
    quality("red", "लाल"),
    quality("blue", "नीला"),
    quality("green", "हरा"),
    quality("yellow", "पीला"),
    quality("white", "सफ़ेद"),
    quality("black", "काला"),
    quality("pink", "गुलाबी"),
    quality("brown", "भूरा"),
)

VEHICLES = (
    noun("bus", "बस", "f", "buses"),
    noun("train", "रेलगाड़ी", "f"),
    noun("bicycle", "साइकिल", "f"),
    noun("boat", "नाव", "f"),
    noun("car", "कार", "f"),
    noun("scooter", "स्कूटर", "m"),
    noun("rickshaw", "रिक्शा", "m"),
    noun("tractor", "ट्रैक्टर", "m"),
)

WARES = (
    goods("toys", "खिलौने", "खिलौनों", "m"),
    goods("carpets", "कालीन", "कालीनों", "m"),
    goods("bangles", "चूड़ियाँ", "चूड़ियों", "f"),
    goods("shawls", "शॉलें", "शॉलों", "f"),
    goods("sweets", "मिठाइयाँ", "मिठाइयों", "f"),
    goods("baskets", "टोकरियाँ", "टोकरियों", "f"),
    goods("lamps", "दीये", "दीयों", "m"),
    goods("shoes", "जूते", "जूतों", "m"),
)

_LION, _TIGER = noun("lion", "शेर", "m"), noun("tiger", "बाघ", "m")
_WOLF = noun("wolf", "भेड़िया", "m", "wolves")
_COW, _GOAT, _HORSE = noun("cow", "गाय", "f"), noun("goat", "बकरी", "f"), noun("horse", "घोड़ा", "m")
_BUFFALO, _DOLPHIN = noun("buffalo", "भैंस", "f", "buffaloes"), noun("dolphin", "डॉल्फ़िन", "f")
_CROCODILE, _OTTER = noun("crocodile", "मगरमच्छ", "m"), noun("otter", "ऊदबिलाव", "m")
_HERON, _HEN = noun("heron", "बगुला", "m"), noun("hen", "मुर्गी", "f")
_PIGEON, _SPARROW = noun("pigeon", "कबूतर", "m"), noun("sparrow", "गौरैया", "f")
_MONKEY, _PARROT = noun("monkey", "बंदर", "m"), noun("parrot", "तोता", "m")
_BAT, _SQUIRREL = noun("bat", "चमगादड़", "m"), noun("squirrel", "गिलहरी", "f")

# What animals eat and where they live is true in the real world too; every answer belongs to three animals.
FOODS: tuple[tuple[Word, tuple[Word, ...]], ...] = (
    (noun("meat", "मांस", "m"), (_LION, _TIGER, _WOLF)),
    (noun("grass", "घास", "f"), (_COW, _BUFFALO, _HORSE)),
    (noun("fish", "मछली", "f"), (_CROCODILE, _OTTER, _HERON)),
    (noun("grain", "दाना", "m"), (_HEN, _PIGEON, _SPARROW)),
    (noun("fruit", "फल", "m"), (_MONKEY, _PARROT, _BAT)),
)
HABITATS: tuple[tuple[Word, tuple[Word, ...]], ...] = (
    (noun("forest", "जंगल", "m"), (_LION, _TIGER, _WOLF)),
    (noun("shed", "बाड़ा", "m"), (_COW, _BUFFALO, _GOAT)),
    (noun("river", "नदी", "f"), (_CROCODILE, _OTTER, _DOLPHIN)),
    (noun("garden", "बगीचा", "m"), (_SPARROW, _PARROT, _SQUIRREL)),
)
ANIMALS = (_LION, _TIGER, _WOLF, _BUFFALO, _CROCODILE, _OTTER, _HERON, _PIGEON, _SPARROW, _MONKEY, _BAT)
PLANT_EATERS = (
    _COW,
    _GOAT,
    _HORSE,
    _BUFFALO,
    noun("rabbit", "खरगोश", "m"),
    noun("deer", "हिरन", "m", "deer"),
)

_OPPOSITES = (
    "big बड़ा small छोटा, hot गरम cold ठंडा, new नया old पुराना, high ऊँचा low नीचा, "
    "thick मोटा thin पतला, fast तेज़ slow धीमा, wet गीला dry सूखा, full भरा empty खाली, "
    "clean साफ़ dirty गंदा, sweet मीठा bitter कड़वा"
)
OPPOSITES = tuple(
    (quality(english, hindi), quality(english_opposite, hindi_opposite))
    for english, hindi, english_opposite, hindi_opposite in (pair.split() for pair in _OPPOSITES.split(", "))
)

_DAYS = (
    "Monday सोमवार, Tuesday मंगलवार, Wednesday बुधवार, Thursday गुरुवार, "
    "Friday शुक्रवार, Saturday शनिवार, Sunday रविवार"
)
_MONTHS = (
    "January जनवरी, February फ़रवरी, March मार्च, April अप्रैल, May मई, June जून, July जुलाई, "
    "August अगस्त, September सितंबर, October अक्टूबर, November नवंबर, December दिसंबर"
)
DAYS = _names(_DAYS)
MONTHS = _names(_MONTHS)

# From here on: words of the short stories, which no question asks about.

# Villages are only names, made of beginnings and endings that are common in real ones.
_BEGINNINGS = (
    "Hari हरि, Gopi गोपी, Pratap प्रताप, Veer वीर, Kishor किशोर, Bishan बिशन, Durga दुर्गा, Kesar केसर, "
    "Neel नील, Sundar सुंदर, Amar अमर, Jay जय, Manik माणिक, Sita सीता, Bal बाल, Ganga गंगा"
)
_ENDINGS = "pur पुर, nagar नगर, garh गढ़, ganj गंज, gaon गाँव"
VILLAGES = tuple(
    name(str(first.en) + str(last.en), str(first.hi) + str(last.hi))
    for first in _names(_BEGINNINGS)
    for last in _names(_ENDINGS)
)

_GENDERS: tuple[Gender, Gender] = ("f", "m")
_THINGS = (
    # Feminine
    "basket टोकरी, book किताब, rope रस्सी, key चाबी, clock घड़ी, cap टोपी, bell घंटी, kite पतंग, ball गेंद, "
    "shirt कमीज़, ring अँगूठी, comb कंघी, bucket बाल्टी, doll गुड़िया, notebook कॉपी, plate थाली, "
    "bottle बोतल, stick छड़ी, candle मोमबत्ती, pencil पेंसिल, pen कलम, chair कुर्सी, sheet चादर, "
    "sandal चप्पल, nail कील, picture तस्वीर, statue मूर्ति, letter चिट्ठी, lantern लालटेन, pan कड़ाही, "
    "jug सुराही, tray तश्तरी, sieve छलनी, needle सुई, mat चटाई, quilt रज़ाई, stool चौकी",
    # Masculine
    "umbrella छाता, pot घड़ा, mirror शीशा, blanket कंबल, toy खिलौना, map नक्शा, bag थैला, lamp दीया, "
    "towel तौलिया, pillow तकिया, cup प्याला, spoon चम्मच, thread धागा, button बटन, lock ताला, coat कोट, "
    "flowerpot गमला, hammer हथौड़ा, wheel पहिया, newspaper अखबार, coin सिक्का, fan पंखा, "
    "stone पत्थर, curtain परदा, turban साफ़ा, horn भोंपू, trunk संदूक, bowl कटोरा, cage पिंजरा",
)
THINGS = tuple(
    noun(english, hindi, gender)
    for pairs, gender in zip(_THINGS, _GENDERS, strict=True)
    for english, hindi in (pair.split() for pair in pairs.split(", "))
)
QUALITIES = (
    quality("old", "पुराना"),
    Word(English("new", "new"), Hindi("नया", "m", "नए", "नए", "नई")),
    quality("small", "छोटा"),
    quality("big", "बड़ा"),
    quality("beautiful", "सुंदर"),
    quality("heavy", "भारी"),
    quality("handy", "काम का"),
    quality("strong", "मज़बूत"),
    quality("cheap", "सस्ता"),
    quality("expensive", "महँगा"),
    quality("dirty", "गंदा"),
    quality("clean", "साफ़"),
    quality("strange", "अजीब"),
    quality("shiny", "चमकीला"),
    Word(English("broken", "broken"), Hindi("टूटा-फूटा", "m", "टूटे-फूटे", "टूटे-फूटे", "टूटी-फूटी")),
    quality("lovely", "प्यारा"),
    quality("unusual", "अनोखा"),
    quality("tiny", "नन्हा"),
    quality("foreign", "विदेशी"),
    quality("ordinary", "मामूली"),
    quality("dusty", "धूल से भरा"),
    quality("plain", "सादा"),
    quality("colourful", "रंगीन"),
)
STRANGERS = (
    noun("shopkeeper", "दुकानदार", "m"),
    noun("fisherman", "मछुआरा", "m", "fishermen"),
    noun("soldier", "सिपाही", "m"),
    noun("priest", "पुजारी", "m"),
    noun("carpenter", "बढ़ई", "m"),
    noun("blacksmith", "लोहार", "m"),
    noun("barber", "नाई", "m"),
    noun("cook", "रसोइया", "m"),
    noun("postman", "डाकिया", "m", "postmen"),
    noun("guard", "चौकीदार", "m"),
    noun("merchant", "व्यापारी", "m"),
    noun("sailor", "नाविक", "m"),
    noun("hunter", "शिकारी", "m"),
    noun("traveller", "मुसाफ़िर", "m"),
    noun("woodcutter", "लकड़हारा", "m"),
    noun("milkman", "दूधवाला", "m", "milkmen"),
    noun("shepherd", "गड़रिया", "m"),
    noun("juggler", "मदारी", "m"),
)
SMALL_ANIMALS = (
    noun("cat", "बिल्ली", "f"),
    noun("dog", "कुत्ता", "m"),
    _GOAT,
    _MONKEY,
    _SQUIRREL,
    _HEN,
    noun("mouse", "चूहा", "m", "mice"),
    noun("frog", "मेंढक", "m"),
    noun("peacock", "मोर", "m"),
    noun("owl", "उल्लू", "m"),
)
BURDENS = (
    noun("basket", "टोकरी", "f"),
    noun("bag", "थैला", "m"),
    noun("box", "डिब्बा", "m", "boxes"),
    noun("pot", "घड़ा", "m"),
    noun("bucket", "बाल्टी", "f"),
    noun("sack", "बोरी", "f"),
    noun("bundle", "गठरी", "f"),
)
VEGETABLES = (
    noun("spinach", "पालक", "m"),
    noun("okra", "भिंडी", "f"),
    noun("cauliflower", "गोभी", "f"),
    noun("pumpkin", "कद्दू", "m"),
    noun("aubergine", "बैंगन", "m"),
)
_TIRED = Word(English("tired", "tired"), Hindi("थका हुआ", "m", "थके हुए", "थके हुए", "थकी हुई"))
MOODS = (
    quality("happy", "खुश"),
    _TIRED,
    quality("sad", "उदास"),
    quality("busy", "व्यस्त"),
    quality("worried", "परेशान"),
    quality("cheerful", "प्रसन्न"),
    quality("hungry", "भूखा"),
    quality("restless", "बेचैन"),
)
ROAD_MOODS = (
    _TIRED,
    quality("hungry", "भूखा"),
    quality("thirsty", "प्यासा"),
    quality("worried", "परेशान"),
)
CHARACTERS = (
    quality("proud", "घमंडी"),
    quality("greedy", "लालची"),
    quality("brave", "बहादुर"),
    quality("kind", "दयालु"),
    quality("wise", "बुद्धिमान"),
    quality("lazy", "आलसी"),
    quality("generous", "उदार"),
)
INDOORS = (
    name("under the bed", "पलंग के नीचे"),
    name("behind the door", "दरवाज़े के पीछे"),
    name("in the kitchen", "रसोई में"),
    name("in the cupboard", "अलमारी में"),
    name("on the table", "मेज़ पर"),
    name("near the window", "खिड़की के पास"),
    name("next to the stove", "चूल्हे के पास"),
    name("on the roof", "छत पर"),
)
OUTDOORS = (
    name("under a tree", "एक पेड़ के नीचे"),
    name("near a well", "एक कुएँ के पास"),
    name("beside a temple", "एक मंदिर के पास"),
    name("in front of a shop", "एक दुकान के सामने"),
    name("behind a wall", "एक दीवार के पीछे"),
    name("on a hill", "एक पहाड़ी पर"),
    name("in a field", "एक खेत में"),
)
TALK = (
    name("the weather", "मौसम"),
    name("the harvest", "फ़सल"),
    name("the school", "स्कूल"),
    name("the wedding", "शादी"),
    name("the old days", "पुराने दिनों"),
    name("the new bridge", "नए पुल"),
    name("the festival", "त्योहार"),
    name("the cricket match", "क्रिकेट मैच"),
)
TIMES = (
    name("one morning", "एक सुबह"),
    name("one evening", "एक शाम"),
    name("after lunch", "दोपहर के खाने के बाद"),
    name("before sunrise", "सूरज निकलने से पहले"),
    name("last week", "पिछले हफ़्ते"),
    name("on a cold day", "ठंड के एक दिन"),
    name("during the holidays", "छुट्टियों में"),
    name("a few days ago", "कुछ दिन पहले"),
)
NUMBERS = (
    name("three", "तीन"),
    name("four", "चार"),
    name("five", "पाँच"),
    name("six", "छह"),
    name("seven", "सात"),
    name("eight", "आठ"),
    name("nine", "नौ"),
    name("ten", "दस"),
    name("twelve", "बारह"),
)
