"""`NRP`: nationalities, religions and political groups, by a list of words in English, German, Spanish and French.

A broad kind: it is looked for where a policy names it. Words with a capital only (`Polish`, not `to polish`), in German
adjectives with a small letter as well (`die katholische Kirche`). Who is meant is not judged: `the French Revolution` counts.
"""

from __future__ import annotations

from llmshield_plugins.pii.settings import CustomPattern, Recogniser

_ENGLISH = (
    "Afghan Albanian Algerian American Angolan Argentine Argentinian Armenian Australian Austrian Azerbaijani Bahraini Bangladeshi "
    "Belarusian Belgian Bolivian Bosnian Brazilian British Briton Bulgarian Burmese Cambodian Cameroonian Canadian Catalan Chechen "
    "Chilean Chinese Colombian Congolese Croatian Croat Cuban Cypriot Czech Dane Danish Dominican Dutch Dutchman Ecuadorian Egyptian "
    "English Englishman Englishwoman Eritrean Estonian Ethiopian Filipino Finn Finnish Flemish French Frenchman Frenchwoman Georgian "
    "German Ghanaian Greek Guatemalan Haitian Hispanic Honduran Hungarian Icelandic Indian Indonesian Iranian Iraqi Irish Irishman "
    "Israeli Italian Ivorian Jamaican Japanese Jordanian Kazakh Kenyan Korean Kosovar Kurd Kurdish Kuwaiti Laotian Latino Latina Latvian "
    "Lebanese Libyan Lithuanian Macedonian Malaysian Maltese Mexican Moldovan Mongolian Moroccan Mozambican Namibian Nepalese Nepali "
    "Nicaraguan Nigerian Norwegian Pakistani Palestinian Panamanian Paraguayan Persian Peruvian Pole Polish Portuguese Qatari Romanian "
    "Russian Rwandan Salvadoran Saudi Scot Scottish Senegalese Serb Serbian Singaporean Slovak Slovene Slovenian Somali Spaniard "
    "Spanish Sudanese Swede Swedish Swiss Syrian Taiwanese Tanzanian Thai Tibetan Tunisian Turk Turkish Ugandan Ukrainian Uruguayan "
    "Uzbek Venezuelan Vietnamese Welsh Yemeni Zambian Zimbabwean European Asian African Arab Roma Inuit Maori Aboriginal "
    "Christian Catholic Protestant Lutheran Methodist Baptist Anglican Presbyterian Evangelical Mormon Muslim Moslem Sunni Shia Shiite "
    "Jew Jewish Hindu Sikh Buddhist Jain Taoist Atheist Agnostic Quaker Amish Islamist Zionist "
    "Democrat Republican Libertarian Socialist Communist Marxist Tory Conservative Liberal Fascist Anarchist Nationalist"
)
_PEOPLES = "Dutchmen Englishmen Frenchmen Irishmen Tories Roma Scots Swiss"
_GERMAN = (
    "deutsch amerikanisch britisch englisch französisch italienisch spanisch portugiesisch polnisch russisch ukrainisch türkisch "
    "griechisch österreichisch schweizerisch niederländisch belgisch dänisch schwedisch norwegisch finnisch ungarisch tschechisch "
    "rumänisch bulgarisch serbisch kroatisch bosnisch albanisch syrisch irakisch iranisch afghanisch israelisch chinesisch japanisch "
    "koreanisch indisch pakistanisch vietnamesisch marokkanisch tunesisch ägyptisch nigerianisch brasilianisch mexikanisch "
    "katholisch evangelisch protestantisch orthodox jüdisch muslimisch islamisch buddhistisch hinduistisch"
)
_PERSONS = (
    "Deutscher Deutsche Amerikaner Brite Franzose Französin Italiener Spanier Portugiese Pole Polin Russe Russin Ukrainer Türke Türkin "
    "Grieche Griechin Österreicher Schweizer Niederländer Belgier Däne Schwede Norweger Finne Ungar Tscheche Rumäne Bulgare Serbe Kroate "
    "Syrer Iraker Iraner Afghane Chinese Japaner Inder Marokkaner Tunesier Ägypter Katholik Protestant Christ Jude Jüdin Moslem "
    "Sozialdemokrat Kommunist Atheist"
)
_ROMANCE = (
    "español española francés francesa alemán alemana italiano italiana inglés inglesa portugués portuguesa marroquí rumano rumana "
    "colombiano colombiana mexicano mexicana peruano peruana argentino argentina chino china católico católica musulmán musulmana judío judía "
    "français française allemand allemande italien italienne espagnol espagnole anglais anglaise marocain marocaine algérien algérienne "
    "tunisien tunisienne sénégalais sénégalaise belge catholique musulman musulmane juif juive"
)
_NOT_ALONE = frozenset(("china", "orthodox"))
"""Words that mean something else too often."""


def recogniser() -> Recogniser:
    """`NRP` as a policy's own recogniser would be written."""
    english = f"(?:{'|'.join((*_ENGLISH.split(), *_PEOPLES.split()))})s?"
    persons = f"(?:{'|'.join(_PERSONS.split())})(?:in|innen|en|n|s)?"
    others = "|".join(
        [
            *(_whole(word, "(?:e[rnms]?)?") for word in _GERMAN.split() if word not in _NOT_ALONE),
            *(_whole(word, "s?") for word in _ROMANCE.split() if word not in _NOT_ALONE),
        ]
    )
    return Recogniser(
        kind="NRP",
        patterns=(
            CustomPattern(name="english", regex=rf"\b(?:{english})\b", score=0.6),
            CustomPattern(name="german persons", regex=rf"\b(?:{persons})\b", score=0.6),
            CustomPattern(name="adjectives", regex=f"(?:{others})", score=0.5),
        ),
    )


def _whole(word: str, ending: str) -> str:
    """A word with its endings; re2 knows borders beside ASCII letters only."""
    left = r"\b" if word[0].isascii() else ""
    return f"{left}{word}{ending}" + (r"\b" if word[-1].isascii() else "")
