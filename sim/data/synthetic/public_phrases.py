"""Grammar of the public pages: notices, forum posts, phrase books, letters, lists and lessons.

The posts are written as informally as the private users write, in the same abbreviations and many
of the same sentences; the phrase books hold some of them in tidy English. No page is a message, a
note or a mail of one person to another, and none holds a user's friends, habits or secrets.

Names in braces that have no list in this file (person, other, place, thing, theme, and those of
the private users' sentences) are drawn once for a page, so that it speaks of the same people and
things from beginning to end.
"""

from __future__ import annotations

from userdp.sim.data.synthetic import everyday_words, grammar, private_phrases

EVERYDAY = """
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
write yard year yellow yes yesterday yet you young your parcel sofa vet password locker code alarm
spare safe account email supplies birthday errands shopping weekend wifi hug rush
"""

_SHARED = {
    "day": everyday_words.DAY,
    "when": everyday_words.WHEN,
    "clock": everyday_words.CLOCK,
    "money": everyday_words.MONEY,
    "craft": everyday_words.CRAFT,
    "stuff": everyday_words.THING,
    "word": " | ".join(EVERYDAY.split()),
    "weekday": "Monday | Tuesday | Wednesday | Thursday | Friday | Saturday | Sunday",
    "hour": "eight | nine | half past six | ten in the morning | noon | four | half past seven",
    "number": "2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 | 10 | 12 | 15 | 18 | 20 | 24 | 30 | 40 | 75 | 100",
    "digit": "0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9",
    "nth": "1st | 2nd | 3rd | 4th | 9th | 14th | 21st | 30th",
    "wind": "north | south | east | west",
    "good": "milk | eggs | bread | bin bags | tea | sugar | soap | flour | apples | candles",
    "animal": "cat | dog | rabbit | parrot | tortoise | pony",
    "colour": "black | white | grey | brown | red | yellow | green | blue",
    "stop": ". | . | . | ! | !! | ... | :) | ;)",
    "bullet": "- | - | * | -> | [ ] | #",
}

_TIDY = {
    "ask": (
        "Can you bring {thing} on {weekday}? | Could you check {thing}, please? "
        "| Is there any news on {thing}? | Are we still meeting on {weekday} at {hour}? "
        "| Did {other} reply about {thing}? | Who has the keys for {place}? "
        "| Are you free on {weekday}? | What is the plan for {weekday}? "
        "| Could you pick up {other} from {place}? | Can we move {thing} to {weekday}? "
        "| How is the {animal} today? | When does {place} open? | How much did {thing} cost? "
        "| Would you forward me the letter about {thing}? | Where did you leave {thing}?"
    ),
    "tell": (
        "I am running late, but I will be at {place} by {hour}. "
        "| I have just come back from {place} with {other}. | {^thing} is ready now. "
        "| {other} says that {thing} is on for {weekday}. | I shall be at {place} until {hour}. "
        "| We are still waiting for {other}. | I owe you {money} for {thing}. "
        "| I spent the whole morning on {thing}. | I have booked a table at {place}. "
        "| We went {craft} all weekend. | {other} cannot come on {weekday}. "
        "| My phone stopped working at {place}. | We are out of {good}. "
        "| The {craft} class has moved to {place}. | It is {other}'s birthday on {weekday}. "
        "| I can hardly believe that {thing} cost {money}. | The {animal} is at the vet. "
        "| {^thing} can wait until {weekday}. | I left my {craft} things at {place}."
    ),
    "react": (
        "Yes, of course. | That sounds good to me. | No worries at all. | Thank you so much. "
        "| See you there. | Not again, please! | I have only just seen this. | That is fine by me. "
        "| Honestly, I forgot. | Never mind. | Good idea."
    ),
    "formal": (
        "Thank you for your letter of the {nth}. | We are sorry for the slow reply. "
        "| {^thing} will be ready by the {nth}. | Please send {money} to the office before the "
        "{nth}. | We have written to {other} about {thing}. | The keys are kept at {place}. "
        "| Members may ask for {thing}. | {other} has agreed to look after {thing}. "
        "| The next meeting is on {weekday} the {nth} at {hour}. | There were {number} of us. "
        "| Please do not leave {thing} at the door. | We hope to see you on {weekday}. "
        "| The {craft} group meets at {place} on {weekday}. | Nobody has asked for {thing} yet. "
        "| The price of {thing} is now {money}."
    ),
}

_CASUAL = {
    "chat": (
        "anyone know if {place} is open on {day}? | has anyone had trouble w/ {thing}? "
        "| is {thing} worth {money}? | can u get {thing} at {place}? | whats the best day for "
        "{thing}? | any tips for {thing}? | how do u do {thing} in the rain? "
        "| who do i ask abt {thing}? | is it just me or is {thing} getting worse? "
        "| {thing} was fine til {when} | thinking abt {thing} again | gonna try {thing} on {day} "
        "| tbh i gave up on {thing} | thx to everyone who helped w/ {thing} "
        "| selling {craft} kit, {money}, pick up on {day} "
        "| lost my keys near {place} on {day}, pls message if u find them "
        "| been away til {when}, sorry for the slow reply | omg {thing} is {money} now "
        "| cant get {thing} to work | fyi {place} is closed on {day} | u need to book b4 {when} "
        "| lmk if u want {thing}, free to a good home | ok so {thing} is sorted, thanks all "
        "| just saw {thing} at {place} for {money} | not sure {thing} can wait til {when} "
        "| no idea tbh, ask at {place} | haha same here | fingers crossed for {when} "
        "| dont do {thing} on {day}, its a nightmare | i'd ask {other}, they're at {place} til "
        "{clock} | my {animal} hates {thing} | i'm at {place} on {day} after {clock} "
        "| new {craft} group at {place}, {day} {clock}, all welcome | ugh, {thing} again "
        "| pls bring {thing} back to {place} asap | we're out of {good} at {place} "
        "| you can't park at {place} on {day} | i've got {number} of them, {money} each "
        "| no rush, {when} is fine | whoever took {thing}, not being funny, bring it back "
        "| the {craft} class is at {clock}, doesn't cost more than {money} "
        "| running late as ever, save me a seat at {place} | i'll be there by {clock}, {other} too "
        "| it's the {animal}'s birthday so no {craft} on {day} | did {other} ever reply to this? "
        "| is {other} doing ok? | still waiting on {thing} | need to pay for {thing} by {when} "
        "| do you want {thing}? can drop it at {place} | the meetup is at {place} now, til {clock} "
        "| whats the plan if {thing} is off? | r u sure abt {thing}? | who's got a spare {good}? "
        "| i've booked {place} before, it was {money} | spent {money} on {thing}, cant believe it "
        "| see u all on {day} | let me know if {when} works for you | ask {other} re {thing} "
        "| how's {thing} going? | just got {thing} from {other} | {other} says {thing} is no good "
        "| could you forward me the email w/ the {craft} times? | my phone died so i missed this "
        "| {thing} is doing ok, thanks {other} | i owe {other} {money} "
        "| been to {place} all morning | can we have {thing} back by {when}? "
        "| any news from {other}? | we're at {place} at {clock} "
        "| pls call {other}, they've lost the keys | {other} can't make {day} "
        "| pick up yr {good} from {place}, it's free | are we still meeting at {place} {when}?"
    ),
    "heading": (
        "{theme} board | questions abt {thing} | {craft} for beginners | lost and found "
        "| what's on | for sale | {theme} help"
    ),
}

_PAGES = {
    "notice": (
        "Lost near {place}: a {colour} {animal}. Please ring {other} on {phone}. "
        "| The library will be closed on {weekday} the {nth}. | Found: {number} keys, at {place}. "
        "| {^thing}: see {other} at {place}, {weekday} from {hour}. "
        "| A talk on {craft} will be given at {place} by {person}, {weekday}, {hour}. "
        "| For sale: {thing}, {money}. Ask for {other}. | Wanted: a {animal}. {person}, {phone}. "
        "| The committee thanks {person} for {thing}. | Wet paint at {place}."
    ),
    "phone": "{digit}{digit}{digit} {digit}{digit}{digit}{digit}",
    "gazetteer": (
        "{person} lies {number} miles {wind} of {other}, beside {place}. "
        "| {other} has {number} houses and a fair on the {nth}. "
        "| The road from {person} to {other} is {number} miles long. "
        "| At {place} you may buy {good} and {good}. | {other} is known for its {craft}. "
        "| There is a ferry to {other} on {weekday}, for {money}. "
        "| The wind at {person} is from the {wind}."
    ),
    "price": (
        "{good}, {number} for {money} | {good} and {good}: {money} | {thing}: {money} "
        "| {craft} kit, {money} | {number} x {good} | parcel to {person}: {money} | {stuff}"
    ),
    "price_title": (
        "Price list, {weekday} | Shopping list | To bring | Packing list | At {place} "
        "| {thing} - notes | todo before {when}"
    ),
    "lesson": (
        "Words for today: {word}, {word}, {word}, {word}. | {^word} is not {word}. "
        "| Say {word}, then {word}. | How do you spell {word}? | We {word}, they {word}. "
        "| Learn by heart: {word}, {word} and {word}. | Write a sentence with {word} in it. "
        "| The number is {digit}{digit}{digit}{digit}{digit}. | “{^word}” or “{word}”?"
    ),
    "newsletter": "Subject: news from {place} | Subject: {weekday} meeting | Subject: {thing} "
    "| Subject: re: {thing} | Subject: questions",
}


def _said_by_all(kind: str) -> str:
    """Two in three of the private users' sentences of a kind, which people post in public too."""
    sentences = private_phrases.WORDS[kind].split("|")
    return "|".join(text for number, text in enumerate(sentences) if number % 3)


_POSTED = {
    "posted": "|".join(_said_by_all(kind) for kind in ("ask", "tell")),
    "reaction": _said_by_all("react"),
    "errand": _said_by_all("todo"),
}

RULES = grammar.compiled({**_SHARED, **_TIDY, **_CASUAL, **_POSTED, **_PAGES})
