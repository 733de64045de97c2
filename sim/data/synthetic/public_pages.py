"""Generates the public pages beside the stories: gazetteers, lessons, price lists, logs, ciphers.

They hold rare names, numbers, unusual punctuation and common words in any order, so that a model
trained on the public text is not overconfident about what the grammar of the stories never says.
"""

from __future__ import annotations

import random

from userdp.sim.data.synthetic import grammar

_LETTERS = "eeeeaaaiiioootttnnnsssrrrhhlldducmfywgpbvkxqjz"
_SIGNS = (
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;!?'\"-+*/=()[]<>#&%£$@_~ \n"
)

_EVERYDAY = """
able about above across again against air all alone along also always and another answer any
anything around ask away back bag bath because bed before begin behind below best better between
big bird bit black blue book both box bread break bring brother build but buy call can card care
carry catch chain chair change check city class clean clear climb clock close coat cold come
cook cost could count cover cup cut dance day dear did do door double down draw dress drive each
ear early east eat egg eight enough even evening ever every eye fact fall family far fast father
feel few film find fine first five flat flower fly follow food foot forget form four free friday
friend from front full game garden get girl give glad go good great green group grow hair half
hand hang hard have head hear heart help her here high hill him hold home hope horse hot hour
house how hundred idea if in inch into is it job join jump just keep key kind kitchen know lamp
land last late learn leave left let letter light like line list little long look lose lot love
low make man many may me mean meet milk minute miss monday money month more morning most mother
move much music must my name near need never new next nice night nine no not note nothing now
number of off often old on once one only open or order other our out over own page paper park
part pay people phone pick piece place plan plant play please pocket practice price public pull
push put question quick quiet rain read ready reply rest ride right ring river road roof room
round run same saturday saw say school sea second see seem sell send sentence seven shall shop
short should show side since sing sister sit six sleep slow small so soap some song soon sorry
sort speak spring stand start stay step still stop store story street such sugar summer sunday
sure swim table take talk tea teach tell ten than thank that the their then there they thing
think this thousand three thursday ticket time to today together tomorrow too top town train
travel tree trip try tuesday turn two under until up us use van very view visit voice wait walk
wall want warm wash watch water way we weather wednesday week well went were what wheel when
where which while white who why will wind window winter with without word work world worry would
write yard year yellow yes yesterday yet you young your
"""
_WORDS = _EVERYDAY.split()

_RULES = grammar.compiled(
    {
        "entry": (
            "{NAME} ({n} souls), {n} miles {wind} of {NAME}; {word}, {word} and {word}; see {NAME}."
            " | {NAME}, or {NAME}: a {word} with {n} {word}s, {word}ed by {NAME} in 1{n}{n}. "
            "| {NAME} {kind}, {n} acres. Fair on the {n}th. Owner: {NAME} {NAME}."
        ),
        "price": (
            "{word}, per {word}: £{n}.{n} | {word} & {word}: {n}d. | {n} x {word} ({name}): £{n} "
            "| {word} for {NAME} - £{n} | no {word}, no {word} | * {word} {word}: {n}/{n}"
        ),
        "log": (
            "{n}:{n} Wind {wind}. {word} {word}."
            " | {n}am. {NAME} to the {word}; {word} {word} {word}."
            " | {n}pm: {word} of {NAME}, {n} {word}s! | No. {n}, {NAME}; {word}? {word}. "
            "| the {n}th, {word} {word}, {word}."
        ),
        "lesson": (
            "{word} {word} {word} {word} | {word}, {word}, {word}; {word} | {word}! {word}? {word}."
            " | {word} {name} {word} {name} | i {word} u, u {word} me"
            " | {word} - {word}'s - {word}ed"
            "| {^word} {word}ing {word} | we {word}, they {word}, he {word}s | {name}: {word} (n.)"
        ),
        "wind": "N. | S. | E. | W. | N.E. | S.W. | north | south",
        "kind": "Hall | Street | Park | Road | House | Bridge | Court",
    }
)


def page(seed: int, number: int) -> str:
    """One page of about sixty words, a function of its arguments."""
    chance = random.Random(f"page/{seed}/{number}")
    if chance.random() < 0.1:
        return "".join(_SIGNS[int(chance.random() * len(_SIGNS))] for _ in range(200))
    kinds = ("entry", "price", "log", "lesson")
    kind = kinds[int(4 * chance.random())]
    separator = "\n" if chance.random() < 0.5 else " "
    return separator.join(_line(kind, chance) for _ in range(5 + int(8 * chance.random())))


def _line(kind: str, chance: random.Random) -> str:
    names = [_name(chance) for _ in range(6)]
    texts_by_slot = {
        "word": [_WORDS[int(chance.random() * len(_WORDS))] for _ in range(8)],
        "name": names,
        "NAME": [name.capitalize() for name in names],
        "n": [str(int(10 ** (2.5 * chance.random()))) for _ in range(5)],
    }
    rules = {slot: grammar.alternatives(texts) for slot, texts in texts_by_slot.items()}
    return grammar.expand({**_RULES, **rules}, kind, chance)


def _name(chance: random.Random) -> str:
    length = 3 + int(6 * chance.random())
    return "".join(_LETTERS[int(chance.random() * len(_LETTERS))] for _ in range(length))
