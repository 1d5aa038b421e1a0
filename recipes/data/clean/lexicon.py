"""Frequent words that tell romanised Hindi and English apart."""

# The usual spellings, except those that are English words too: to, me, the, is, main, par, us, in, do ...
_HINGLISH = """
hai hain hei nahi nahin nhi nai kya kyu kyun kyon kyoon kaise kaisa kaisi kab kahan kaha kaun kon kitna
kitne kitni kiska kiski kiske kisi kisne mera meri mere mujhe mujhko muje maine tera teri tere tujhe tune
tum tumhara tumhari tumhare tumko tumhe tumhein aap aapka aapki aapke aapko apna apni apne hamara hamari
hamare humara humari humare hume humein humne hamne mai mein maine unka unki unke unko unhe unhone iska
iski iske isko isse uska uski uske usko usse usne ye yeh woh wo voh vo ka ki ke ko se ne aur bhi toh
tho tha thi thay raha rahi rahe rha rhi rhe gaya gayi gaye gya gyi gye kar karo karna karne karke karta
karti karte karenge karunga karungi kare karein kiya kiye kro krna krke hoga hogi honge hota hoti hote hua
hui hona hone wala wali wale waala yaar yar bhai bhaiya didi kuch kuchh kucch sab sabhi sabko bahut bohot
bahot bhut zyada jyada thoda thodi thode accha acha achha achi acchi achhi achhe acche theek thik thek
abhi kal aaj aajkal jab tab phir fir kabhi hamesha jaldi der yahan yaha wahan waha idhar udhar isliye
isiliye kyunki kyuki kyonki lekin magar agar warna matlab chahiye chahie chaiye chahta chahti chahte sakta
sakti sakte saka sake diya diye dena dene deta deti dete dunga lena lene leta leti liya liye jata jati
jate jaata jaati jaate jana jaana jane jaane jao jaao jaunga jaungi jayega jayegi jaye aana aane aata aati
aate aaya aayi aaye aao aayega aayegi baat baatein baten bata batao batana ghar paani pani khana khaana
khaane logon logo raat saal samay waqt kaam paisa paise dost dosti pyar pyaar dil zindagi jindagi duniya
bachcha bachche bacche baccha ladka ladki ladke maa mummy papa beta beti subah shaam dopahar dekho dekha
dekhi dekhna dekh suno suna sunna bol bolo bola boli bolna kaho kaha kehna kehte kehta pata malum maloom
samajh samjha samajhna soch socha sochta chal chalo chalte chalna raho rehna rehta rehte rakho rakhna
milna mila milta milenge milega milegi laga lagi lagta lagti lage sirf bas ek paanch saath sath baad pehle
pahle andar bahar upar neeche niche wajah tarah taraf khud koi jo jis jise jiski jisne itna itni itne utna
haan haa han ji shukriya dhanyavaad namaste kripya naya nayi naye purana purani bada badi chhota choti
chota
"""
_ENGLISH = """
the of and to in is was that for it with as his her on be at by had he she not are but from or have an
they which one you were all their there been if will would when who him my we what so them its into some
could them than then this these those our your has do did does can may must shall should about after
before between because while where how why just only also very more most other such no nor any each every
up out over under again once here am i a me us get got make made like know see want need good new time way
"""
HINGLISH = frozenset(_HINGLISH.split())
ENGLISH = frozenset(_ENGLISH.split())
