"""Sentences written for the tests of the cleaning filters, and a planted corpus made of generated stories."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path

import pyarrow
import pyarrow.parquet

from recipes.data.benchmark_mirror import split_file, write_index
from recipes.data.corpus.generate import documents
from recipes.data.corpus.grammar import Language
from recipes.data.corpus.world import make_world
from recipes.files import sha256_file

HINDI = [
    "कल शाम को बारिश हुई और बच्चे देर तक आँगन में खेलते रहे।",
    "मेरी दादी हर सुबह मंदिर जाती हैं और लौटकर सबको चाय पिलाती हैं।",
    "सरकार ने नई रेल लाइन के लिए पैसे दिए हैं, पर काम अभी शुरू नहीं हुआ।",
    "यह किताब मुझे मेरे शिक्षक ने दी थी जब मैं दसवीं कक्षा में था।",
    "बाज़ार में आज टमाटर बहुत महँगे हैं, इसलिए हमने आलू ही खरीदे।",
    "वैज्ञानिकों का कहना है कि नदी का पानी अब पीने के लायक नहीं रहा।",
    "क्या तुम मेरे साथ स्टेशन चलोगे या यहीं बैठे रहोगे?",
    "उसने कहा कि वह अगले साल अपने गाँव लौटकर खेती करेगा।",
    "किसान सुबह से खेत में काम कर रहे हैं और दोपहर को पेड़ के नीचे आराम करेंगे।",
    "इस शहर की सबसे पुरानी इमारत दो सौ साल पहले बनी थी।",
]
MARATHI = [
    "काल संध्याकाळी पाऊस पडला आणि मुले अंगणात उशिरापर्यंत खेळत होती.",
    "माझी आजी रोज सकाळी देवळात जाते आणि परत येऊन सर्वांना चहा देते.",
    "सरकारने नव्या रेल्वेमार्गासाठी पैसे दिले आहेत, पण काम अजून सुरू झाले नाही.",
    "हे पुस्तक मला माझ्या शिक्षकांनी दिले होते जेव्हा मी दहावीत होतो.",
    "आज बाजारात टोमॅटो खूप महाग आहेत, म्हणून आम्ही फक्त बटाटे घेतले.",
    "शास्त्रज्ञांचे म्हणणे आहे की नदीचे पाणी आता पिण्यायोग्य राहिलेले नाही.",
    "तू माझ्याबरोबर स्थानकावर येशील का इथेच बसून राहशील?",
    "तो म्हणाला की पुढच्या वर्षी तो आपल्या गावी परत जाऊन शेती करणार आहे.",
    "शेतकरी सकाळपासून शेतात काम करत आहेत आणि दुपारी झाडाखाली विश्रांती घेतील.",
    "या शहरातील सर्वात जुनी इमारत दोनशे वर्षांपूर्वी बांधली गेली होती.",
]
NEPALI = [
    "हिजो साँझ पानी पर्‍यो र केटाकेटीहरू अबेरसम्म आँगनमा खेलिरहे।",
    "मेरी हजुरआमा हरेक बिहान मन्दिर जानुहुन्छ र फर्केर सबैलाई चिया खुवाउनुहुन्छ।",
    "सरकारले नयाँ रेलमार्गका लागि पैसा दिएको छ, तर काम अझै सुरु भएको छैन।",
    "यो किताब मलाई मेरो शिक्षकले दिनुभएको थियो जब म दस कक्षामा पढ्थेँ।",
    "बजारमा आज गोलभेँडा धेरै महँगो छ, त्यसैले हामीले आलु मात्र किन्यौँ।",
    "वैज्ञानिकहरूका अनुसार नदीको पानी अब पिउन योग्य छैन।",
    "के तिमी मसँग स्टेसन जान्छौ कि यहीँ बसिरहन्छौ?",
    "उसले अर्को साल आफ्नो गाउँ फर्केर खेती गर्ने कुरा गर्‍यो।",
    "किसानहरू बिहानैदेखि खेतमा काम गरिरहेका छन् र दिउँसो रूखमुनि आराम गर्नेछन्।",
    "यस सहरको सबैभन्दा पुरानो घर दुई सय वर्षअघि बनेको थियो।",
]
HINGLISH = [
    "Yaar kal raat ko itni baarish hui ki poori gali mein paani bhar gaya.",
    "Mujhe lagta hai ki hum log aaj movie dekhne nahi ja payenge.",
    "Bhai tu office kab pahunchega, sab tera wait kar rahe hain.",
    "Meri mummy ne aaj bahut accha khana banaya tha, tum bhi aa jaate.",
    "Exam ki taiyari kaisi chal rahi hai, kuch samajh aaya ya nahi?",
    "Ye phone maine pichhle saal liya tha aur abhi tak badhiya chal raha hai.",
    "Agar train late ho gayi to hum bus se chalenge, tension mat lo.",
    "Usne bola ki woh shaam tak paise wapas kar dega.",
    "Kya aap mujhe station ka rasta bata sakte hain?",
    "Office mein kaam itna zyada hai ki lunch karne ka bhi time nahi milta.",
    "Dosto aaj hum baat karenge ek bahut hi interesting topic ke baare mein.",
    "Mere gaon mein abhi tak bijli theek se nahi aati.",
    "Chalo phir milte hain, ghar pahunch kar message kar dena.",
    "Is video ko like karo aur channel ko subscribe karna mat bhoolna.",
    "Papa ne kaha hai ki is baar Diwali par nayi gaadi lenge.",
    "Pata nahi kyun par aaj mera mann kahin nahi lag raha.",
    "Sabzi wale ne bola tamatar sau rupaye kilo ho gaye hain.",
    "Meeting postpone ho gayi hai so ab kal subah milenge.",
    "Woh ladka bahut mehnat karta hai isliye har baar first aata hai.",
    "Tumhari awaaz nahi aa rahi, network ka problem lag raha hai.",
    "Kitna bhi samjhao ye bachche sunte hi nahi hain.",
    "Hamari team ne match jeet liya, kya zabardast catch tha yaar!",
    "Doctor ne bataya ki dawai khane ke baad hi leni hai.",
    "Jab tak sarkar dhyan nahi degi tab tak kuch nahi badlega.",
    "Please ticket book kar do, main paise online transfer kar dunga.",
    "Maine usko call kiya tha lekin usne phone nahi uthaya.",
    "Ghar se nikalte waqt chaabi lena mat bhoolna.",
    "Interview accha gaya, ab result ka intezaar hai.",
    "Is dukaan ki mithai poore sheher mein mashhoor hai.",
    "Bas ek cup chai mil jaye to sir dard theek ho jayega.",
]
ENGLISH = [
    "The rain last night flooded the whole street and nobody could get to work.",
    "My grandmother visits the temple every morning and makes tea for all of us.",
    "Farmers in Punjab say the new canal has not brought any water to their fields.",
    "Could you tell me the way to the railway station?",
    "Ramesh Kumar and Sita Devi were elected to the village council of Rampur.",
    "The Lok Sabha passed the bill after a long debate on Tuesday.",
    "She ordered masala dosa and filter coffee at the Udupi restaurant near Dadar.",
    "Install the package, then run the tests with two workers.",
    "Water boils at a lower temperature on high mountains because the air is thinner.",
    "He said that the main road to Patna would be closed until Sunday.",
    "A function returns the value that was passed to it unless the flag is set.",
    "Diwali, Holi and Eid are among the most widely celebrated festivals in India.",
    "The committee will publish its report on the Ganga and the Yamuna next month.",
    "I do not know where they went, but the house was empty when we came.",
    "Prices rose by four percent in March, the bank said in a statement.",
    "Teen drivers log more hours in summer than in winter.",
    "The hue of the sky changed from red to violet within minutes.",
    "Chai, samosas and jalebis were served to the guests in the courtyard.",
    "Our flight from Delhi to Kochi was delayed by three hours.",
    "Every child in the school received a book and a pencil.",
    "Mahatma Gandhi led the salt march to Dandi in 1930.",
    "The novel follows a young clerk who loses his job and moves to Bombay.",
    "Please send the signed form before the end of the week.",
    "If the door is locked, ask the guard for the key.",
    "Scientists found traces of lead in the soil near the old factory.",
    "Bhai Dooj is a festival on which sisters pray for their brothers.",
    "The king of Kosala had two sons and a daughter.",
    "Most of the workers came from Bihar and eastern Uttar Pradesh.",
    "He bade them farewell and walked a mile along the river.",
    "Set the timeout to zero to wait without a limit.",
]
OTHER_LATIN = {
    "fr": "Le gouvernement a annoncé que les travaux de la nouvelle ligne commenceraient au printemps.",
    "de": "Die Regierung hat bekannt gegeben, dass die Arbeiten an der neuen Strecke beginnen.",
    "es": "El gobierno anunció ayer que las obras de la nueva línea empezarán la próxima primavera.",
    "it": "Il governo ha annunciato ieri che i lavori della nuova linea cominceranno la prossima primavera.",
    "pt": "O governo anunciou ontem que as obras da nova linha vão começar na próxima primavera.",
    "id": "Pemerintah mengumumkan kemarin bahwa pembangunan jalur kereta baru akan dimulai pada musim semi.",
    "tr": "Hükümet dün yeni hattın inşaatına gelecek bahar aylarında başlanacağını açıkladı.",
    "sw": "Serikali ilitangaza jana kwamba ujenzi wa reli mpya utaanza mwakani katika mji huu.",
}


def stories(language: Language, number: int, words: int = 150) -> list[str]:
    """`number` different documents of at least `words` words, of the generated corpus."""
    texts, source = [], documents(make_world(1, 48), language, seed=1)
    for _ in range(number):
        text = next(source)
        while len(text.split()) < words:
            text += "\n" + next(source)
        texts.append(text)
    return texts


def nearly(text: str) -> str:
    """The same document with one word in two hundred changed."""
    words = text.split(" ")
    for position in range(20, len(words), 200):
        words[position] = "XYZ"
    return " ".join(words)


def write_jsonl(path: Path, texts: Iterable[str], **more: str) -> Path:
    """One document per line, with an id; compressed as the name says."""
    lines = [
        json.dumps({"text": text, "id": f"{path.name}-{number}", **more}, ensure_ascii=False) + "\n"
        for number, text in enumerate(texts)
    ]
    data = "".join(lines).encode()
    if path.suffix == ".gz":
        data = gzip.compress(data)
    elif path.suffix == ".zst":
        data = pyarrow.compress(data, codec="zstd", asbytes=True)
    path.write_bytes(data)
    return path


def write_mirror(folder: Path, tables: dict[str, list[dict[str, object]]]) -> Path:
    """A benchmark mirror with the given rows, as tools.prefetch_benchmarks would write it."""
    manifest = {}
    for entry, rows in tables.items():
        path = split_file(folder, entry)
        path.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        manifest[entry] = {"rows": len(rows), "sha256": sha256_file(path), "tasks": ["planted"]}
    write_index(folder, manifest)
    return folder
