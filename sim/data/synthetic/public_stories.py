"""Grammar of the public text's stories: short tales set on a coast, in the third person.

Hero, companion, places and thing are drawn once for a tale; the rest is drawn sentence by sentence.
"""

from __future__ import annotations

import random

from userdp.sim.data.synthetic import grammar

_SENTENCES = 9  # between a tale's opening and its ending, on average

_PEOPLE = grammar.compiled(
    {
        "woman": (
            "Ada | Beatrice | Clara | Dorothea | Edith | Flora | Greta | Hester | Ida | Judith "
            "| Lydia | Mara | Nora | Ottilie | Prudence | Rosalind | Sabine | Thea | Ursula "
            "| Winifred"
        ),
        "man": (
            "Abel | Bertram | Caspar | Duncan | Edmund | Felix | Gideon | Hugo | Isaac | Jonas "
            "| Konrad | Leander | Matthias | Nathaniel | Oswin | Percival | Rufus | Silas | Tobias "
            "| Walter"
        ),
    }
)

_RULES = grammar.compiled(
    {
        "trade": (
            "lighthouse keeper | clockmaker | ferryman | beekeeper | mapmaker | miller | net mender"
            " | schoolmaster | baker | shipwright | shepherd | bell founder | gardener | physician"
            " | bookbinder | glassblower"
        ),
        "place": (
            "harbour | mill | orchard | lighthouse | market square | chapel | ferry landing "
            "| old bridge | quarry | walled garden | boathouse | library | inn at the crossroads "
            "| salt marsh | stone tower | bakery"
        ),
        "far": (
            "the northern islands | the capital | the mountains | the far shore | the next valley "
            "| the open sea"
        ),
        "thing": (
            "lantern | brass key | letter | music box | silver coin | map | clock | telescope "
            "| wooden bird | bell | book of tides | glass bottle | compass | painted box | violin "
            "| red umbrella"
        ),
        "quality": (
            "small | worn | quiet | broken | golden | curious | heavy | forgotten | beautiful "
            "| plain | strange | weathered | narrow | pale | bright | dusty"
        ),
        "mood": (
            "glad | uneasy | tired | hopeful | ashamed | curious | afraid | patient | proud "
            "| lonely | calm | restless"
        ),
        "manner": (
            "slowly | gently | without a word | at once | with great care | in silence "
            "| as if in a dream | with a steady hand | for the first time | as the others had done"
        ),
        "season": "spring | summer | autumn | winter",
        "time": (
            "that evening | the next morning | before dawn | at midnight | on the third day "
            "| after the storm | when the tide turned | in the first days of {season} "
            "| at the end of {season} | long after supper"
        ),
        "weather": (
            "rain fell upon the roofs | the wind rose from the sea | fog lay over the water "
            "| snow covered the road | the sun broke through the clouds "
            "| the moon stood above the hills | thunder rolled in the distance "
            "| the first stars appeared | a cold mist came down from the hills "
            "| the sea lay flat and grey"
        ),
        "creature": (
            "gull | grey cat | heron | fox | lame horse | raven | dog | barn owl | donkey | hare"
        ),
        "creature_did": (
            "watched from the wall | cried once and was gone | followed at a distance "
            "| slept by the door | stood very still | would not come nearer "
            "| looked up at the window | vanished into the reeds"
        ),
        "body": "door | window | candle | fire | table | stair | gate | boat | shelf | chimney",
        "did": (
            "opened the {body} | looked at the {quality} {thing} | walked down to the {place} "
            "| listened at the {body} | wrapped the {thing} in a {quality} cloth "
            "| put the {thing} upon the {body} | remembered {far} | turned back towards the {place}"
            " | sat down beside the {body} | lit the lamp | counted the steps to the {place} "
            "| thought of {far} | locked the {body} | called out across the water "
            "| waited by the {place} | read the {quality} page again | carried the {thing} home "
            "| climbed the hill above the {place}"
        ),
        "past": (
            "had been a {trade} | had crossed to {far} | had lost a {quality} {thing} "
            "| had lived beside the {place} | had promised never to return "
            "| had known the sea since childhood | had buried the {thing} under the {place} "
            "| had been {mood} all through the {season} | had kept the {thing} for twenty years"
        ),
        "saying": (
            "We shall not speak of it | The sea gives back what it takes "
            "| You must go before the {season} | There is no other {thing} like it "
            "| I have seen this {place} in a dream | Nobody goes to the {place} now "
            "| It was never mine to keep | You are late | The tide waits for no one "
            "| Leave the {thing} where it is | I knew your father | One day you will understand "
            "| Then we must begin again"
        ),
        "said": "said | whispered | answered | murmured | replied | repeated | cried",
        "people": (
            "the villagers | the children | the fishermen | the two sisters | the travellers "
            "| the old men at the inn"
        ),
        "people_did": (
            "spoke of nothing else | shook their heads | gathered at the {place} "
            "| said that it was the {thing} | went home one by one "
            "| had seen a light at the {place} | remembered another {season} | would not believe it"
        ),
        "sentence": (
            "{^time}, {hero} {did}. | {^pronoun} {did} and {did}. "
            "| {^pronoun} {past}, and {pronoun} was {mood}. "
            "| {^weather}, and {hero} {did} {manner}. | “{saying},” {said} {friend}. "
            "| “{saying},” {said} {hero}. “{saying}.” | {^people} {people_did}, but {hero} {did}. "
            "| {^people} {people_did}. | The {creature} {creature_did}. "
            "| {^friend}, who {past}, {did} {manner}. "
            "| There was a {quality} {thing} behind the {body} of the {place}. "
            "| Nobody at the {place} knew why {pronoun} {did}. "
            "| It seemed to {hero} that the {thing} was {quality} and {quality}. "
            "| When {friend} {did}, {weather}. | {^time}, {weather}, and {people} {people_did}. "
            "| The {trade} {did} {manner}, for {pronoun} was {mood}. "
            "| As {weather}, {friend} {did}; {hero} {did}. "
            "| At the {place} {pronoun} met a {trade} who {past}. "
            "| {^hero} was {mood}, yet {pronoun} {did}. "
            "| The {thing} had come from {far}, and it was {quality}. "
            "| {^pronoun} did not know that {friend} {past}."
        ),
        "opening": (
            "There once lived a {trade} named {hero} who {past}. "
            "| In a {quality} house near the {place} lived {hero}, a {trade}. "
            "| {^time}, a {trade} by the name of {hero} came to the {place}. "
            "| Long ago, when {people} still went to {far}, {hero} {did}. "
            "| Of all who lived beside the {place}, only {hero} {past}."
        ),
        "ending": (
            "And {hero} never spoke of the {thing} again. "
            "| So it was that {hero} and {friend} {did}. "
            "| To this day {people} will show you the {thing}. "
            "| Then {weather}, and {hero} was {mood} at last. "
            "| The {thing} is still there, behind the {body} of the {place}."
        ),
    }
)


def tale(seed: int, number: int) -> str:
    """One tale of about a hundred words, a function of its arguments."""
    chance = random.Random(f"tale/{seed}/{number}")
    rules = {**_RULES, **_cast(chance)}
    middle = range(2 + int(chance.random() * 2 * (_SENTENCES - 2)))
    names = ["opening", *("sentence" for _ in middle), "ending"]
    return " ".join(grammar.expand(rules, name, chance) for name in names)


def _cast(chance: random.Random) -> grammar.Rules:
    """Rules with hero, companion, pronoun, thing and places of one tale in place of all."""
    sexes = [("woman", "she"), ("man", "he")]
    sex, pronoun = sexes[int(2 * chance.random())]
    other = sexes[int(2 * chance.random())][0]
    return {
        "hero": grammar.alternatives([grammar.expand(_PEOPLE, sex, chance)]),
        "friend": grammar.alternatives([grammar.expand(_PEOPLE, other, chance)]),
        "pronoun": grammar.alternatives([pronoun]),
        "thing": grammar.alternatives([grammar.expand(_RULES, "thing", chance)] * 3),
        "place": grammar.alternatives([grammar.expand(_RULES, "place", chance) for _ in range(2)]),
    }
