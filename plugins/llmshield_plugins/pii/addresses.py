"""Street addresses as they are written in English, German, Dutch, French, Spanish, Italian, Portuguese, Polish,
Hungarian and the Nordic languages.

A house number and the word for a street make an address; a town, a region and a postcode behind it belong to it.
Words that also mean other things (Park, Point, View; Ring, Markt) need a unit, a postcode, or a word before them that
announces an address. What begins with a street has to be known to `segments.py` as well.
"""

from __future__ import annotations

from collections.abc import Iterator

from llmshield_plugins.pii.expressions import compiled

Hit = tuple[int, int, str, float]

# Suffixes of USPS Publication 28, appendix C1, those that are rarely anything else first.
_STRONG = (
    "Street|St|Avenue|Ave|Av|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct|Terrace|Ter|Parkway|Pkwy|Highway|Hwy|"
    "Circle|Cir|Trail|Trl|Crescent|Cres|Square|Sq|Mews|Alley|Turnpike|Tpke|Freeway|Expressway|Causeway|Cul-de-sac|"
    "Close|Esplanade|Stravenue|Throughway|Trafficway|Motorway|Skyway"
)
_WEAK = (
    "Way|Place|Pl|Plaza|Row|Walk|Loop|Run|Pike|Path|Pass|Park|Point|View|Hill|Hills|Grove|Gardens|Garden|Gate|Gateway|"
    "Heights|Ridge|Bridge|Brook|Bypass|Canyon|Cape|Center|Cliff|Club|Common|Corner|Course|Cove|Creek|Crest|Crossing|"
    "Dale|Dam|Divide|Estate|Estates|Extension|Falls|Ferry|Field|Fields|Flat|Flats|Ford|Forest|Forge|Fork|Forks|Fort|"
    "Glen|Glens|Green|Harbor|Haven|Hollow|Inlet|Island|Islands|Isle|Junction|Key|Knoll|Knolls|Lake|Lakes|Land|Landing|"
    "Light|Lock|Locks|Lodge|Mall|Manor|Meadow|Meadows|Mill|Mills|Mission|Mount|Mountain|Neck|Orchard|Oval|Overpass|"
    "Parade|Passage|Pine|Pines|Plain|Plains|Port|Prairie|Quay|Radial|Ramp|Ranch|Rapid|Rapids|Rest|River|Route|Shoal|"
    "Shoals|Shore|Shores|Spring|Springs|Spur|Station|Stream|Summit|Trace|Track|Tunnel|Underpass|Union|Valley|Viaduct|"
    "Village|Ville|Vista|Wells|Wharf|Yard|Broadway"
)
_STRONG += "|" + "|".join(word.upper() for word in _STRONG.split("|") if len(word) > 2)
_WEAK += "|" + "|".join(word.upper() for word in _WEAK.split("|"))
_NUMBER = r"[0-9]{1,6}[A-Za-z]?(?:[-/][0-9]{1,4})?"
_COMPASS = r"(?:(?:N|S|E|W|NE|NW|SE|SW|North|South|East|West)\.?[ ])?"
_NAME = r"(?:[A-Z0-9][A-Za-z0-9.'-]*[ ]{1,2}){1,4}"
_AFTER_COMPASS = r"(?:[ ](?:NE|NW|SE|SW|N|S|E|W)\b)?"
_UNIT = r"(?:,?[ ](?:Apartment|Apt|Suite|Ste|Unit|Floor|Fl|Room|Rm|Flat|#)\.?[ ]?#?[A-Za-z0-9-]{1,6}\b)"
_TOWN = r"(?:,[ ](?:[A-Z][A-Za-z.'-]*[ ]?){1,4})"
_CODE = r"(?:,?[ ](?:[A-Z]{2}[ ])?[0-9]{5}(?:-[0-9]{4})?\b|,?[ ][A-Z]{1,2}[0-9][A-Z0-9]?[ ]?[0-9][A-Z]{2}\b|,?[ ][A-Z][0-9][A-Z][ ]?[0-9][A-Z][0-9]\b)"
_STATE = r"(?:,?[ ][A-Z]{2}\b)"

# Small words in lower case, the name itself in capitals: `Calle de la Princesa`, not `Rue wurde um`.
_NAMED = r"(?:(?:de|del|della|delle|dei|di|da|do|dos|das|du|des|la|las|los|le|el|san|santa|l|d)[ '])*[A-Z][A-Za-z.'-]*(?:[ ](?:(?:de|del|di|da|do|e|y|la)[ ])?[A-Z][A-Za-z.'-]*){0,3}"
_WORDS = r"(?:[A-Za-z][A-Za-z.'-]*[ ]){0,4}?[A-Z][A-Za-z.'-]*"
_TOWN_CODE = r",?[ ](?:[A-Z]{1,2}-)?(?:[0-9]{4,5}(?:[ ][A-Z]{2})?|[0-9]{2}-[0-9]{3}|[0-9]{3}[ ][0-9]{2}|[0-9]{4}-[0-9]{3})[ ][A-Z][A-Za-z.'-]+(?:[ ](?:am|an der|a\.|[A-Z][A-Za-z-]+))?"
_EUROPE_CODE = rf"(?:{_TOWN_CODE})?"
_HOUSE = r"[0-9]{1,4}(?:[/-][0-9]{1,4})?[ ]?[a-zA-Z]?\b"
_FLOOR = r"(?:,[ ][0-9]{1,2}o?[ ]?[A-Z]\b)?"

# Ends of a word, and words behind a name: `Storgatan 3`, `Kerkstraat 12`, `Budai ut 23`.
_ENDS = (
    "strase|strasse|Strase|Strasse|str\\.|Str\\.|weg|Weg|platz|Platz|allee|Allee|gasse|straat|laan|gracht|plein|singel|gatan|gata|"
    "vagen|veien|vegen|vejen|vej|gade|ntie|katu|chaussee|promenade"
)
_LESSER_ENDS = "ring|Ring|ufer|damm|graben|steig|hof|markt|Markt|gate|gaten|dijk|kade|pfad"
_BEHIND = "gata|gatan|vagen|vei|veg|vej|gade|utca|ut|cesta|ulica|straat|laan|plass|plads|torg"
_BEFORE = (
    "Rue|Calle|C/|C\\.|Cl\\.|Via|Viale|Vicolo|Piazza|Piazzale|Plaza|Pza\\.?|Avenida|Avda\\.?|Av\\.|Rua|Travessa|Praca|Alameda|Estrada|Paseo|"
    "Corso|Largo|Carrera|Carretera|Camino|Ronda|Travesia|Glorieta|Carrer|Passeig|Strada|Lungomare|Ulica|ulica|ul\\.|al\\.|pl\\.|os\\."
)

# (expression, score): the longest match at the leftmost place wins.
SHAPES: tuple[tuple[str, float], ...] = (
    (rf"{_NUMBER},?[ ]{{1,2}}{_COMPASS}{_NAME}(?:{_STRONG})\b\.?{_AFTER_COMPASS}{_UNIT}?(?:{_TOWN}?{_CODE}|{_TOWN}{_STATE}|{_TOWN})?", 0.8),
    (rf"{_NUMBER},?[ ]{{1,2}}{_COMPASS}{_NAME}(?:{_WEAK})\b\.?{_AFTER_COMPASS}(?:{_UNIT}(?:{_TOWN}?{_CODE}|{_TOWN})?|{_TOWN}?{_CODE}|{_TOWN}{_STATE})", 0.75),
    (rf"{_NUMBER}(?:[ ]?(?:bis|ter))?,?[ ](?i:rue|avenue|av\.?|boulevard|bd\.?|chemin|impasse|place|quai|allee|route|cours|passage|faubourg)[ ]{_WORDS}(?:[ ][A-Z][A-Za-z'-]+){{0,3}}{_EUROPE_CODE}", 0.75),
    (rf"(?:[A-Z][A-Za-z.-]*[ ](?:Strase|Strasse|Str\.|Allee)|(?:[A-Z][A-Za-z.-]*[ ])?[A-Z][A-Za-z.-]*(?:{_ENDS}))[ ]{{1,2}}{_HOUSE}{_EUROPE_CODE}", 0.75),
    (rf"(?:{_BEFORE})[ ]{{0,2}}{_NAMED},?[ ](?:n[.o]*[ ]?)?{_HOUSE}{_FLOOR}{_EUROPE_CODE}", 0.7),
    (r"(?i)P\.?[ ]?O\.?[ ]?Box[ ]{1,2}[0-9]{1,6}\b", 0.75),
    (rf"[A-Z][A-Za-z.-]+[ ](?:{_BEHIND}|gate)[ ]{_HOUSE}{_EUROPE_CODE}", 0.7),
    (rf"[A-Z][A-Za-z.-]*(?:{_LESSER_ENDS})[ ]{{1,2}}{_HOUSE}{_TOWN_CODE}", 0.7),
    (rf"{_NUMBER},?[ ]{{1,2}}{_COMPASS}{_NAME}(?:{_WEAK})\b\.?{_AFTER_COMPASS}", 0.6),
)  # fmt: skip
_ANNOUNCED = 8
"""The shape that counts behind an announcement only: `living at 5 Acorn Way`."""
_ANNOUNCES = compiled(
    r"(?i)(?:\baddress|\baddr\b|\bstreet\b|\bat $|\bliv(?:e|es|ing)\b|\blocated\b|\bresid|\bmov(?:e|ed|ing) to\b|\b(?:send|ship|deliver|mail)|\bhome\b|\bhouse\b|"
    r"\bpremises\b|\bdomicil|[.,] ?$|\n$)"
)
_SHAPES = tuple((compiled(expression), score) for expression, score in SHAPES)

_GATED = 6
_HAS_TOWN = compiled(r"[0-9]{4}[ ][A-Z]")
"""`Boarding gate 12` is no street, `Karl Johans gate 12, 0154 Oslo` is one."""

_ROAD = compiled(r"(?i)(?:bundes|landes|kreis|staats|land)stra?s")
"""`Bundesstraße 11` is a road with a number, not a house."""


def addresses(text: str, numbers: list[int]) -> Iterator[Hit]:
    """Every street address in an ASCII text, of the shapes with these numbers."""
    data = text.encode("ascii")
    for number in numbers:
        expression, score = _SHAPES[number]
        for match in expression.finditer(data):
            start, end = match.span()
            if start and (text[start - 1].isalnum() or text[start - 1] in "_.$#"):
                continue
            if _ROAD.match(data, start) is not None:
                continue
            if number == _ANNOUNCED and _ANNOUNCES.search(data[max(0, start - 40) : start]) is None:
                continue
            if (
                number == _GATED
                and data[:end].rfind(b" gate ", start) > 0
                and _HAS_TOWN.search(data[start:end]) is None
            ):
                continue
            while text[end - 1] in " ,.":
                end -= 1
            yield start, end, "STREET_ADDRESS", score
