"""Texts with and without personal data, for the precision and recall of masking; every detail is invented.

What is to be masked stands in brackets after its kind: "Call [phone: 98765 43210] now". Each form is printed
in an English sentence in ASCII digits and in a Hindi sentence in Devanagari digits.
"""

from __future__ import annotations

import re

DEVANAGARI = str.maketrans("0123456789", "०१२३४५६७८९")
_MARK = re.compile(r"\[(\w+): (.*?)\]")

# Kind -> (English sentence, Hindi sentence, forms in which the number is printed).
_FORMS: dict[str, tuple[str, str, str]] = {
    "aadhaar": (
        "It was linked to {} last week.",
        "लाभार्थी ने {} जमा किया।",
        """
        234567890124
        4738 1920 5644
        6152-0943-8174
        8901\u00a07263\u00a05490
        3520\u20138174\u20136937
        7209  4518  3628
        5486\u20113091\u20112758
        9031 - 7452 - 0865
        4738\u200919205644
        6152\u202f0943\u202f8174
        3520 8174 6937
        890172635490
        """,
    ),
    "vid": (
        "The VID is {} for this month.",
        "उनकी वर्चुअल आईडी {} है।",
        """
        9174 5820 3361 4075
        9174582033614075
        9174-5820-3361-4075
        2745\u00a06103\u00a08892\u00a01456
        6301 7745 2098 3316
        8840\u20132217\u20139035\u20136148
        """,
    ),
    "phone": (
        "Ring {} after six.",
        "शाम को {} मिलाइए।",
        """
        9876543210
        98765 43210
        98765-43210
        98765 - 43210
        987-654-3210
        987 654 3210
        987.654.3210
        9876 543 210
        (98765) 43210
        09876543210
        098765 43210
        0-9876543210
        +919876543210
        +91 9876543210
        +91-9876543210
        +91.9876543210
        +91 98765 43210
        +91-98765-43210
        +91 (98765) 43210
        +91 (0) 98765 43210
        +91-0-9876543210
        +91 98 76 54 32 10
        +91 987 654 3210
        +91 9876 543210
        +91 987654 3210
        +91 - 98765 43210
        + 91 98765 43210
        (+91) 98765 43210
        (+91)-9876543210
        00919876543210
        0091 98765 43210
        0091-98765-43210
        91-9876543210
        91 98765 43210
        (91) 98765 43210
        (0) 98765 43210
        011-23456789
        011 23456789
        011-2345-6789
        011 - 23456789
        (011) 23456789
        (022) 2345 6789
        (022)-23456789
        0522-2234567
        (0522) 223 4567
        0141-2 345 678
        05422-223456
        05422 223 456
        +91 11 2345 6789
        +91-11-23456789
        +91 (22) 2345-6789
        +91 522 2234567
        (+91) 522 - 223 4567
        0091 22 2345 6789
        91-11-23456789
        +91\u00a098765\u00a043210
        98765\u201343210
        +91\u201198765\u201143210
        """,
    ),
    "pan": (
        "The tax return names {} twice.",
        "आयकर विवरणी में {} लिखा है।",
        """
        ABCPK1234L
        BQZPS7043M
        AAACT2727Q
        AABFR4521J
        AADTS8810C
        AAEHM3367N
        """,
    ),
    "gstin": (
        "The dealer printed {} on the bill.",
        "दुकानदार ने {} छपवाया है।",
        """
        27AAPFU0939F1ZV
        07ABCPK1234L1Z5
        09 BQZPS7043M 1Z2
        29-AAACT2727Q-1Z9
        33 AABFR4521J 2 Z C
        24AADTS8810C1ZD
        """,
    ),
    "vehicle": (
        "We saw {} leave the town.",
        "वहाँ {} भी खड़ी थी।",
        """
        MH12AB1234
        MH 12 AB 1234
        MH-12-AB-1234
        MH-12 AB 1234
        MH12 AB 1234
        MH 12 AB-1234
        DL3CAB1234
        DL 3C AB 1234
        UP 32 X 0001
        KA\u00a005\u00a0MG\u00a07788
        TN\u201309\u2013BZ\u20134521
        OD 02 K 6610
        22BH1234AA
        22 BH 1234 AA
        23-BH-0456-C
        21 BH 7781 K
        """,
    ),
    "voter_id": (
        "Her voter ID {} was cancelled.",
        "मतदाता पहचान पत्र संख्या {} रद्द हुआ।",
        """
        ABC1234567
        XKD0456712
        NRT 8841203
        WZP/3320917
        UP/12/345/678901
        MH/01/001/123456
        """,
    ),
    "passport": (
        "Passport No. {} expires soon.",
        "पासपोर्ट नंबर {} की अवधि समाप्त है।",
        """
        J8369854
        K1234567
        M 4471206
        Z-7310042
        R71 55392
        S6620187
        """,
    ),
    "driving_licence": (
        "Driving licence {} was seized.",
        "ड्राइविंग लाइसेंस {} जब्त हुआ।",
        """
        MH12 20110012345
        MH1220110012345
        MH-1220110012345
        DL-04 20110149646
        UP32/2015/0012345
        KA01 2018 0001234
        TN-09-1998-0004411
        GJ05 19990076123
        """,
    ),
    "bank": (
        "Account no. {} was closed.",
        "खाता संख्या {} बंद हुआ।",
        """
        50100123456789
        123456789012345678
        1234 5678 9013
        0123-4567-8901-23
        31245678901
        914010012345678
        """,
    ),
    "ip": (
        "Logins came from {} at night.",
        "रात में {} से प्रवेश हुआ।",
        """
        49.36.128.8
        103.21.58.4
        117.200.13.77
        2001:4860:4860::8888
        2405:201:4003:d0a1:1c2b:3f4e:5a6b:7c8d
        2409:4063:2308::1c2a
        """,
    ),
    "email": (
        "Write to {} before noon.",
        "आवेदन {} पर भेजें।",
        """
        ram@example.com
        ram.kumar@mail.example.co.in
        r_k+news@example.org
        RAM.KUMAR@EXAMPLE.COM
        ram123@example.in
        o'neill@example.com
        ram@डाटामेल.भारत
        संपर्क@डाटामेल.भारत
        राम.कुमार@डाटामेल.भारत
        राम.कुमार@example.com
        राम123@डाक.संगठन
        सीता_देवी@उदाहरण.कॉम
        info@xn--c2bd4bq1db8d.xn--h2brj9c
        தொடர்பு@அஞ்சல்.இந்தியா
        যোগাযোগ@ডাক.ভারত
        jörg@müller.example.de
        почта@пример.рф
        ram@example.भारत
        """,
    ),
    "upi": (
        "Pay {} for the book.",
        "किताब के लिए {} पर पैसे दें।",
        """
        ram.kumar@okaxis
        ramk@oksbi
        9876543210@ybl
        9876543210@paytm
        ram-k@upi
        Sita.Devi@HDFCBANK
        sita98@apl
        shop.lko@icici
        """,
    ),
}

_SENTENCES = """
मेरा आधार नंबर [aadhaar: 4738 1920 5644] है, कृपया दर्ज करें।
Aadhaar: [aadhaar: 615209438174], name: Sita Devi
UID [aadhaar: 3520-8174-6937] (verified)
आधार सं. [aadhaar: ७२०९४५१८३६२८] का सत्यापन हुआ।
1. [aadhaar: 2345 6789 0124]
Her Aadhaar (number [aadhaar: 8901 7263 5490]) and PAN [pan: BQZPS7043M] were found online.
Virtual ID: [vid: 9174582033614075]
VID : [vid: 9174 5820 3361 4075]
वीआईडी [vid: २७४५ ६१०३ ८८९२ १४५६] से लॉगिन करें।
Call us at [phone: 98765 43210] or [phone: 98765 43211].
Mobile: [phone: 9876543210], Office: [phone: 011-23456789]
मोबाइल नंबर [phone: 9876543210] पर संपर्क करें।
संपर्क: [phone: ९८७६५४३२१०], [phone: ९८७६५४३२११]
Tel. [phone: 2345 6789]
Tel: [phone: 02223456789]
दूरभाष [phone: 23456789]
Phone No: [phone: 9876 543210]
Ph: [phone: 987654 3210] (after 5 pm)
WhatsApp [phone: 98-7654-3210]
Phone [phone: 022/23456789]
Mob.[phone: 9876543210]
Contact Ravi ([phone: +91 98765 43210]).
फोन नं. [phone: 0522-2234567] (कार्यालय), [phone: 98390 12345] (घर)
फ़ोन: [phone: 0141 2345678]
[phone: +91 98765 43210] / [phone: +91 98765 43211]
Fax [phone: +91-22-2345 6789]
हेल्पडेस्क [phone: ०११-२३४५६७८९] पर शिकायत करें।
मुझे [phone: 9876543210] पर व्हाट्सएप करो bhai
Mera number [phone: 98765 43210] hai, call karna.
PAN No. [pan: abcpk1234l]
PAN: [pan: ABCPK 1234 L]
पैन कार्ड [pan: ABCPK१२३४L] की प्रति लगाएँ।
स्थायी खाता संख्या [pan: BQZPS7043M]
GSTIN: [gstin: 09bqzps7043m1z2]
GST No. [gstin: 27AAPFU0939F1ZV], PAN [pan: AAPFU0939F]
जीएसटी नंबर [gstin: 07ABCPK1234L1Z5] वाली फर्म बंद मिली।
मतदाता सूची में [voter_id: ABC1234567] और [voter_id: XKD0456712] दो बार दर्ज हैं।
EPIC No: [voter_id: NRT8841203]
वोटर आईडी [voter_id: UP/12/345/678901]
[voter_id: ABC1234567] is my voter card number.
The elector's photo identity card bears the number [voter_id: XKD0456712].
Passport Number: [passport: J8369854]
पासपोर्ट ([passport: K1234567]) खो गया है।
Indian passports [passport: J8369854] and [passport: K1234567] were recovered.
[passport: M4471206] मेरा पासपोर्ट नंबर है।
Holder of passport no [passport: z7310042], issued at Lucknow
पासपोर्ट संख्या [passport: J८३६९८५४]
DL No. [driving_licence: MH12 20110012345]
चालक लाइसेंस क्रमांक [driving_licence: UP32 20150012345] निरस्त किया गया।
Licence number: [driving_licence: DL-0420110149646], valid till 2031
driver's license [driving_licence: KA01 20180001234]
A/c No. [bank: 50100123456789], IFSC [bank: HDFC0001234]
A/C: [bank: 31245678901]
Account Number - [bank: 9876543210]
खाता नंबर [bank: ३१२४५६७८९०१], आईएफएससी कोड [bank: SBIN0001234]
बैंक खाता [bank: 914010012345678] में पैसे भेजें।
Savings account [bank: 1234 5678 9013] of Sita Devi
IFSC Code: [bank: ubin0531234]
कार [vehicle: यूपी 32 एबी 1234] की टक्कर से दो घायल।
बाइक [vehicle: एमपी 09 के क्यू 4521] चोरी हो गई।
ट्रक ([vehicle: आरजे 14 जीबी 7788]) पलट गया।
वाहन संख्या [vehicle: डीएल 3 सी एबी 1234] जब्त।
कार ([vehicle: डीएल-3सी-एबी-1234]) में आग लगी।
Car no. [vehicle: mh12ab1234]
Vehicle Reg. No. [vehicle: UP 32 AB 123]
गाड़ी नंबर [vehicle: MH-१२-AB-१२३४] की तलाश है।
UPI ID: [upi: ravi@somebank]
यूपीआई आईडी [upi: sita.devi@mybank] पर भुगतान करें।
Send it to [upi: ravi@okicici], not to [email: ravi@example.com].
[upi: ९८७६५४३२१०@ybl] पर पैसे भेजें
ई-मेल: [email: sita@example.in]
ईमेल-[email: info@example.org]
मेल [email: राम१२३@डाटामेल.भारत] पर करें।
संपर्क ([email: शिकायत@पंचायत.सरकार.भारत]) या [phone: 0522-2234567]
<[email: ravi.k@example.com]> wrote:
mailto:[email: ravi@example.com]?subject=x
E-mail: [email: ravi @ example.com]
Write to [email: ravi (at) example (dot) com]
[ip: 49.36.128.8] - - "GET / HTTP/1.1"
आईपी पता [ip: ४९.३६.१२८.८] से हमला हुआ।
http://[ip: 103.21.58.4]:8080/index
Dear Sir, my mobile no is [phone: 9415 234 567] and my landline is [phone: 0522 - 278 4561].
For booking ring Mr. Sharma, [phone: 98390-12345] (M), [phone: 2345678] (R).
सम्पर्क सूत्र- [phone: 9415234567]
मो. नं.- [phone: 94152 34567], [phone: 94152 34568]
मो0 [phone: 9415234567]
हेल्पलाइन नंबर [phone: 0522-2239296] जारी किया गया है।
M: [phone: +91-94152-34567] T: [phone: +91 (522) 223 9296]
Cell #[phone: 91 94152 34567]
whatsapp karo [phone: 9415234567] pe
Contact: [phone: 080-4567 8901] ext 23
Tel: [phone: 033 2456 7890] / [phone: 2456 7891]
Toll-free 1800 11 2345, or [phone: 011-2345 6780]
[phone: (0)9415234567]
आधार कार्ड क्रमांक [aadhaar: 5486 3091 2758] खो गया है
Aadhar no [aadhaar: 903174520865]
UIDAI number: [aadhaar: 7209-4518-3628].
Aadhaar No. [aadhaar: 4 7 3 8 1 9 2 0 5 6 4 4]
| आधार संख्या | [aadhaar: 4 | 7 | 3 | 8 | 1 | 9 | 2 | 0 | 5 | 6 | 4 | 4] |
आधार सं. [aadhaar: ४७३८/१९२०/५६४४], नाम: सीता देवी
Aadhaar: [aadhaar: 4738.1920.5644]
My VID for KYC is [vid: 6301774520983316]
पैन नं. [pan: AADTS8810C]
PAN/GIR No. [pan: AABFR4521J]
His pan is [pan: bqzps7043m]
GSTIN/UIN : [gstin: 09BQZPS7043M1Z2]
जीएसटीआईएन [gstin: 24AADTS8810C1ZD]
वोटर कार्ड नंबर [voter_id: WZP3320917]
पहचान पत्र संख्या (मतदाता) [voter_id: NRT8841203]
Election ID [voter_id: XKD0456712]
Ppt No [passport: M4471206]
पासपोर्ट क्र. [passport: K1234567], जन्म तिथि 12-03-1988
He lost his passport (no. [passport: S6620187]) in Delhi.
डी.एल. नंबर [driving_licence: UP32 20150012345]
Driving License No.: [driving_licence: RJ14 20190023456]
DL: [driving_licence: HR26 2012 0076543]
Acct # [bank: 31245678901]
खाता सं. [bank: 31245678901] (भारतीय स्टेट बैंक)
बैंक ऑफ बड़ौदा, खाता क्रमांक- [bank: 0123 0100 004567]
Beneficiary a/c [bank: 50100123456789] IFSC: [bank: HDFC0001234]
SB A/C NO. [bank: 20123456789]
IFS code [bank: PUNB0123400]
दुर्घटनाग्रस्त बस संख्या [vehicle: यूपी 78 एफएन 2345] कानपुर की थी।
Scorpio [vehicle: DL 1C AA 1111] was found.
The stolen Activa ([vehicle: UP-16-BZ-4567]).
[vehicle: यूपी-70-ए-1234] नंबर की बस
कार नंबर [vehicle: एचआर 26 सीके 7654]
truck no. [vehicle: RJ-14 GB 7788]
gpay [upi: ravik@okhdfcbank] ya paytm [upi: 9415234567@paytm]
VPA: [upi: shop.lucknow@axl]
Scan, or pay [upi: sharma-sweets@okbizaxis].
Email id- [email: ravi_kumar@example.co.in]
ई-मेल : [email: ravi.kumar@example.com]।
प्रतिक्रिया [email: पाठक@समाचार.भारत] पर भेजें
email:[email: INFO@EXAMPLE.GOV.IN], web: www.example.gov.in
IP address [ip: 122.160.45.201] (Airtel)
from [ip: 2401:4900:1c5a:8f2d:0:0:0:1] port 443
"""

# Sentences for numbers that are no personal data, with the forms in which those are printed.
_ORDINARY = (
    (
        "The years {} were dry.",
        "{} में सूखा पड़ा।",
        """
        2010 2020 2030
        2004 2006 2008
        2001 2009 2017
        2005 2013 2021
        2014-2019-2024
        2010 2020 2030 2040
        1998 2004 2010
        1947-2024
        2019-2020
        2019-20
        2002\u20132008
        2008 2014 2020
        1857, 1942, 1947
        2020\u00a02024\u00a02028
        1991/2001/2011
        """,
    ),
    (
        "The budget grew to {} rupees.",
        "बजट बढ़कर {} रुपये हुआ।",
        """
        1,23,45,678
        98,76,54,321
        12,34,567.50
        9876543210
        7000000000
        60000-80000
        25000 30000 35000
        2000 3000 6500
        9876543210.50
        4,12,34,56,789
        234567890124
        23456789
        """,
    ),
    (
        "It was fixed at Rs. {} only.",
        "मूल्य ₹{} तय हुआ।",
        """
        9876543210
        98765 43210
        8,50,000
        1,00,00,000
        234567890124
        99999
        6,78,910
        7654321098
        """,
    ),
    (
        "The book, ISBN {}, is out of print.",
        "पुस्तक (आईएसबीएन {}) उपलब्ध नहीं है।",
        """
        978-81-7525-766-5
        9788175257665
        8175257664
        81-7525-766-4
        9380658745
        978 93 5277 123 4
        978-9352771234
        7119012345
        9351234567
        """,
    ),
    (
        "See section {} of the rules.",
        "नियम की धारा {} देखें।",
        """
        4.2.3.1
        12.3.4.5
        11.10.2.14
        66.1.2.3
        498
        80
        2.1
        15(4)
        109-112
        1860/45
        """,
    ),
    (
        "Order No. {} was delivered.",
        "ऑर्डर संख्या {} पहुँच गया।",
        """
        7654321098
        9876543210
        408-7654321-9876543
        234567890124
        412345678902
        OD312345678901234
        AB1234567
        J8369854
        ABC1234567
        2024/12345
        171-2345678-1234567
        98765 43210
        """,
    ),
    (
        "The meeting is on {} at noon.",
        "बैठक {} को होगी।",
        """
        15-08-2024
        15.08.2024
        15/08/2024
        2024-08-15
        20240815
        15 08 2024
        1.1.2001
        08-15-24
        2024-08-15 10:30:00
        202405031130
        2024.08.15
        15 Aug 2024
        """,
    ),
    (
        "India were {} at stumps.",
        "भारत ने {} रन बनाए।",
        """
        287/4
        345-6
        501 & 212/3
        4-0-32-2
        10-2-45-3
        100 (87)
        245 276 312
        413/8 (50)
        20-4-67-5
        1,024
        """,
    ),
    (
        "Train {} runs daily.",
        "गाड़ी संख्या {} रोज चलती है।",
        """
        12951
        12951/12952
        12301-12302
        22691 22692
        12951 12953 12955
        04022
        12004/03
        """,
    ),
    (
        "Send it to Lucknow {} by post.",
        "लखनऊ {} के पते पर भेजें।",
        """
        226001
        226 001
        226001-226030
        226001, 226010
        700001
        400001 400002
        110001/110002
        """,
    ),
    (
        "Open from {} every day.",
        "समय {} रहेगा।",
        """
        10:30-18:45
        10.30-18.45
        1030-1845
        09:00 10:00 11:00
        23:59:59
        6.15
        12:30:45.123
        0900 1300 1700
        2000 2100 2230
        """,
    ),
    (
        "Update to version {} today.",
        "संस्करण {} लगाएँ।",
        """
        2.4.1
        10.0.19045.3570
        11.0.0.1
        49.36.128.8
        120.0.6099.109
        v3.11.4
        1.2.3.4
        16.1.2.30
        """,
    ),
    (
        "The ratio was {} in the test.",
        "अनुपात {} था।",
        """
        16:9
        1:2:3
        3.14159265358979
        0.9876543210
        98765.43210
        22/7
        50:50
        2:3:4:5
        1/3
        2345:6789
        """,
    ),
    (
        "Population rose from {} people.",
        "जनसंख्या {} लोग रही।",
        """
        2345678901
        7654321098
        98765432101
        1234567890
        12 34 56
        4567 5678 6789
        6543210
        """,
    ),
    (
        "The PNR {} is confirmed.",
        "पीएनआर {} कन्फर्म है।",
        """
        8123456789
        6412345678
        812-3456789
        2345678901
        """,
    ),
)

_ORDINARY_SENTENCES = """
Section 4.2.3.1 and clause 12.3.4.5 apply; see also figure 10.2.3.4.
PRICES UP 20 BY 2019, SAYS REPORT
PAGES 5 OR 10 MAR 2020
UP 80 BJP 2024: what changed
Pages 61234 - 61240 are missing
Aadhaar was launched in 2009. Of 2004 2006 2008 none is known.
आधार वर्ष 2011 से 2 3 4 5 6 7 8 9 0 1 2 5 तक
The MH 370 flight vanished in 2014.
A P 12 AB 12 of the annexure
Class 10 CBSE 2024 results
NH 44 was closed; UP 100 was called.
BH 1234 is not a series.
1800-123-4567 is the toll-free number.
1800 123 4567 पर मुफ्त कॉल करें।
Helplines 112, 1098 and 139 are free.
आपातकाल में 112 या 108 डायल करें।
आधार हेल्पलाइन 1947 है।
Pages 61234-61240 were missing.
Card 4111 1111 1111 1111 is a test card.
The barcode 412345678902 was torn.
UTR 412345678902 को बैंक ने खोजा।
Transaction ID: 623456789016
Flight A1234567 was renamed in the log; passports were not checked.
File J8369854 was closed.
पासपोर्ट कार्यालय में 2023 में 1234567 आवेदन आए।
Passports issued: 8369854 in 2022
The voter turnout was 65.7% of 1234567.
मतदाता सूची में 12345678 नाम हैं।
कुल मतदाता 9,87,65,432 हैं।
Driving in MH 12 is hard; 20110012345 is a sample.
He accounted for 123456789 of them.
The account of 1857 and 1942 is long.
खाते में 500000000 रुपये मिले।
On account of 10000 20000 30000 losses
Accounts 2019-2020-2021 were audited.
HDFC0001234 is printed on the cheque leaf.
part number SBIN0001234 (spare)
SKU ABC1234567, lot K1234567
ABCU1234567 is a container.
ISO 27001:2022 and IS 10500:2012
IS 456:2000, IS 1893
ABCXK1234L fits no list.
abcpk1234l is a password.
the hash 9876543210abcdef9876543210 matched
commit 2345678901ab is bad
0x9876543210
id=98765432101234567890
192.168.0.1 और 127.0.0.1 स्थानीय पते हैं।
10.0.0.1, 172.16.5.4 and 169.254.1.1
Windows 10.0.19045.12 and Chrome 49.36.12.8
fe80::1, be::a and std::vector<int>
Google::Cloud::Storage
@property def f(self): return a@b
Follow @ramkumar and @okaxis_support
matrix A@B has shape 3@4
tickets @ 500 each, 2 @ 250
राम @ श्याम का मैच
meet @ 5.30 pm
support@ is a prefix
user@localhost
x@y
lat 26.8467, long 80.9462
26.846700 80.946200
1 2 3 4 5 6 7 8 9 10
0 1 1 2 3 5 8 13 21 34 55
98765 43210 24 17 2
10234 98765 43210 12345
3456 4567 5678 6789
8, 16, 32, 64, 128, 256, 512, 1024
1024 2048 4096 8192
640x480, 1280x720, 1920x1080
9.8 m/s2, 6.022e23, 1.380649e-23
299792458 m/s
6371 km, 384400 km
टोकन 9876543210 निकला।
रसीद संख्या 9123456789
Invoice 9123456789 dated 1.4.2023
Case No. 9123456/2021
Bill no: 6789012345
Application No. 7890123456
आवेदन संख्या 9123456780 स्वीकार हुआ।
₹ 9876543210 करोड़
7654321098 votes were counted.
कुल 8765432109 वोट पड़े।
IPC 302, CrPC 144
धारा 302 और 307 के तहत 2019 में मामला दर्ज
अनुच्छेद 370 हटा, 35ए भी
गीता 2.47, ऋग्वेद 10.129.1.2
Genesis 1:1-2:3
2,00,000 2,50,000 3,00,000
कक्षा 10 के 1234 और 12 के 5678 छात्र
वर्ष 1998 2004 2010 में चुनाव हुए।
1526, 1556, 1761 के युद्ध
विक्रम संवत 2076 2077 2078
शक 1942-1943-1944
1-2-3-4-5-6-7-8-9
12-12-2012 12:12:12
+1 212 555 0123
+44 20 7946 0958
00442079460958
(555) 123-4567
Phone sales grew 2019-2020.
फोन की कीमत 12000 15000 18000 है।
Mobile prices 5000 6000 7000
call 4567 times
Model 2345-6789 is sold out.
The UPI share was 20@2 times.
GST 18% on 27000
GST collection 1,68,337 crore
जीएसटी 2017 में लागू हुआ
PAN India 2024 tour
पैन इंडिया 1234 सिनेमाघर
EPIC 2024 festival
Vehicles 12345 sold in 2023 AB 1234
कार 20 बी 2019 मॉडल
यूपी 80 सीट 2019 में
एमपी 29 सीट 2014
Tender No. 9415234567 dated 12.03.2023
शासनादेश संख्या 1234/दस-2023-45/2019
पत्रांक 2345 6789 दिनांक 15.08.2024
Bihar got 23456789 tonnes.
वर्ष 2011 2021 2031 की जनगणना
The 2014 2019 2024 elections
Scores: 6789 12345 67890
Survey no 456, khata 789, plot 12/34
खसरा संख्या 1234 2345 3456
रोल नंबर 9415234 से 9415300 तक
Roll No. 8123456789
Enrolment No. 9012345678
Registration No. 7012345678
Patent US9876543210
DOI 10.1016/j.cell.2020.01.021
arXiv:2405.12345
HSN code 84713010, SAC 998314
CIN L12345MH1990PLC123456
Notification S.O. 1234(E)
the 9876543210th digit
speed 300000000 m/s
₹98,76,543 करोड़
90000-95000 रु. वेतन
pp. 70001-70020
तापमान 45.6 से 46.7
ट्रेन 12951 12953 12957 रद्द
पिन 226001 226002 226003
फोन पर 2019 में बात हुई
call at 10 20 30 minutes
Mobile 2023-2024 report
accounts for 123456789 people
खाता 2019-2020 2020-2021
Passport Seva 2023, A1 category
passport size photo 35x45
lic. 2345678
GST 12345678 cases
voter list 2024, booth ABC123
IFSC stands for Indian Financial System Code
vehicle MH 12 was old
Car 2019 UP 32
UP 32 districts 2019
AP 13 MLA 2024 list
MP 29 MP 2019
TN 39 MP 2024
9-10-11 12-13-14
HD 8765432109876
EAN 8901234567894
बारकोड 8901234567894
समय 1015 1130 1245
Win 6-4, 7-5, 6-3
हार 21-19, 19-21, 21-18
IMEI 356938035643809
serial 6789012345
Ref: 2345 6789 0124
LIC policy 712345678
10^9876543210
7,65,43,21,098
"""


def _lines(text: str) -> list[str]:
    return [line.strip(" ") for line in text.strip().splitlines()]


def _printed(english: str, hindi: str, form: str) -> list[str]:
    """One sentence in each language; the Hindi one in Devanagari digits."""
    return [english.format(form), hindi.format(form.translate(DEVANAGARI))]


def parse(marked: str) -> tuple[str, list[tuple[int, int, str]]]:
    """The text without marks, and start, end and kind of what was marked."""
    text, spans, position = "", [], 0
    for match in _MARK.finditer(marked):
        text += marked[position : match.start()]
        spans.append((len(text), len(text) + len(match[2]), match[1]))
        text += match[2]
        position = match.end()
    return text + marked[position:], spans


def positives() -> list[str]:
    """Marked texts that contain personal data."""
    made = [
        text
        for kind, (english, hindi, forms) in _FORMS.items()
        for form in _lines(forms)
        for text in _printed(
            english.replace("{}", f"[{kind}: {{}}]"), hindi.replace("{}", f"[{kind}: {{}}]"), form
        )
    ]
    return made + _lines(_SENTENCES)


def negatives() -> list[str]:
    """Texts without personal data."""
    made = [
        text
        for english, hindi, forms in _ORDINARY
        for form in _lines(forms)
        for text in _printed(english, hindi, form)
    ]
    return made + _lines(_ORDINARY_SENTENCES)
