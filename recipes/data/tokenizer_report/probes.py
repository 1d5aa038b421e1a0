"""Our own sentences about what tokenizers get wrong in Hindi and around it."""

import unicodedata

_PROBES: dict[str, tuple[str, ...]] = {
    "Hinglish": (
        "Kal subah office jaldi jaana hai, isliye raat ko der tak movie mat dekhna.",
        "Bhai, tumne mera message padha ya phir se ignore kar diya?",
        "आज का meeting cancel हो गया, अब Friday को video call पर बात करेंगे।",
        "Mummy ne kaha ki khana thanda ho raha hai, jaldi aa jao yaar.",
    ),
    "numbers": (
        "In 2024 the village grew 1,25,000 kg of rice, 3.5% more than in 2019.",
        "सन् १९४७ में यहाँ ३,४५० लोग रहते थे; २०११ में ९८,७६५।",
        "फ़ोन का दाम ₹12,499.00 है, पुराना वाला ₹८,९९९ में मिल जाएगा।",
        "कमरा नंबर 108, समय १०:३० से 11:45 तक।",
    ),
    "code": (
        "def area(width, height):\n    # आयत का क्षेत्रफल\n    return width * height\n",
        "for (int i = 0; i < n; ++i) {\n\tsum += values[i] & 0xFF;\n}\n",
        'SELECT name, city FROM users WHERE age >= 18 AND city = "दिल्ली";',
        '{"नाम": "सीमा", "marks": [71, 88.5, null], "ok": true}',
    ),
    "nukta": (
        "क़लम और काग़ज़ ख़रीदकर वह ज़रा जल्दी घर गया।",
        "सड़क पर पढ़ाई करते बच्चे, फ़र्श पर बिखरे फूल।",
        "ग़लती हुई तो माफ़ी माँगी, फिर ख़ुद ही हँस पड़ा।",
    ),
    "ZWJ and ZWNJ": (
        "क\u094d\u200dष और क\u094dष, र\u094d\u200dय और र\u094dय अलग दिखते हैं।",
        "राज\u094d\u200cकुमार ने सत\u094d\u200cकर्म लिखा।",
        "परिवार: 👨\u200d👩\u200d👧, किसान: 👩\u200d🌾।",
    ),
    "danda": (
        "सूरज निकला। चिड़ियाँ बोलीं। दिन शुरू हुआ।",
        "सब धरती कागद करूँ, मन की बात न होय॥ यह दोहा पुराना है।",
        "क्या वह आएगा? नहीं! कल आएगा।",
    ),
    "chandrabindu and anusvara": (
        "माँ ने हँसकर पाँच आँवले चाँद को दिखाए।",
        "गंगा के किनारे पंख फैलाए हंस संध्या को शांत बैठे हैं।",
        "अंक और अँगूठी, कंघी और काँच, दुःख और अंतःकरण।",
    ),
    "conjuncts": (
        "राष्ट्रीय विद्यार्थी ने संस्कृत में उत्कृष्ट प्रश्न पूछा।",
        "ज्ञान, श्रम, त्र्यंबक, द्वंद्व, स्त्री, मत्स्य, उज्ज्वल, ब्राह्मण।",
        "कर्तव्य और स्वातंत्र्य पर विस्तृत चर्चा हुई।",
    ),
}  # fmt: skip

PROBES: dict[str, tuple[str, ...]] = {
    name: tuple(unicodedata.normalize("NFC", text) for text in texts) for name, texts in _PROBES.items()
}
