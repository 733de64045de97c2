"""Grammar of the private users' texts: messages, notes and mails in the first person.

Names in braces that have no list in this file (friend, spot, pet, craft, ...) are lists of the
single user; `userdp.sim.data.synthetic.users` adds them.
"""

from __future__ import annotations

from userdp.sim.data.synthetic import grammar

TOPICS = {
    "boiler": (
        "the boiler | the radiator valve | the plumber's invoice | the hot water "
        "| the landlord's reply"
    ),
    "band": (
        "band practice | the setlist | the bass amp | our demo | the drummer's timing | the encore"
    ),
    "garden": (
        "the tomato seedlings | the compost bin | the raised bed | slugs on the lettuce | the hose"
    ),
    "kids": (
        "the school run | the permission slip | swim lessons | the packed lunch | parents' evening"
    ),
    "work": (
        "the quarterly deck | standup | the client call | the budget spreadsheet "
        "| the release notes"
    ),
    "bike": (
        "the back tyre | the chain | bike parking | the hill route | my helmet light "
        "| the puncture kit"
    ),
    "baking": "the sourdough starter | the oven | the lemon cake | the proofing basket | rye flour",
    "chess": "the club ladder | my endgame | the blitz night | that rook sacrifice | the Sicilian",
    "trip": (
        "the train tickets | the hostel booking | my passport renewal | the packing list | check-in"
    ),
    "health": (
        "the physio exercises | my blood test | the dentist | the prescription | my sore knee"
    ),
    "flat": "the deposit | the viewing | the inventory list | the removal van | the box room",
    "film": (
        "the subtitles | the projector | that documentary | the popcorn machine | the double bill"
    ),
}

WORDS = {
    "day": (
        "mon | tues | wed | thurs | fri | sat | sunday | tomorrow | tonight | next week | the 14th "
        "| the 3rd"
    ),
    "clock": (
        "8ish | 9:15 | half 6 | 10am | noon | 4pm | 7:30 | after work | first thing | b4 lunch"
    ),
    "money": "£12 | £40 | 35 quid | £7.50 | £220 | a tenner",
    "ask": (
        "can u bring {topic_thing} stuff on {day}? | pls can you check {topic_thing}? "
        "| any news on {topic_thing}? | are we still on for {day} {clock}? "
        "| did {friend} reply abt {topic_thing}? | who's got the keys for {spot}? "
        "| could you forward me the email abt {topic_thing}? | r u free {day} at {clock}? "
        "| whats the plan for {day}? | do you want me to pick up {friend} from {spot}? "
        "| can we move {topic_thing} to {day}? | how's {pet} doing today?"
    ),
    "tell": (
        "running late, be at {spot} by {clock} | just got back from {spot} with {friend} "
        "| {topic_thing} is sorted now | i'll sort out {topic_thing} on {day} "
        "| {friend} says {topic_thing} is on for {day} | gonna be at {spot} til {clock} "
        "| still waiting on {friend} re {topic_thing} | i owe you {money} for {topic_thing} "
        "| {pet} threw up on the sofa again | spent the whole morning on {topic_thing} "
        "| i've booked {spot} for {day} at {clock} | been {craft}ing all weekend "
        "| {friend} can't make it on {day} | my phone died at {spot} "
        "| we're out of milk and {pet}'s food | {topic_thing} is doing my head in "
        "| i left my {craft} kit at {spot} | the {craft} meetup moved to {spot} "
        "| need to pay {friend} {money} by {day} | cant believe {topic_thing} cost {money} "
        "| it's {friend}'s birthday on {day} | i'm wfh on {day} so {clock} works "
        "| {pet} is at the vet til {clock} | {catchphrase}, {topic_thing} can wait"
    ),
    "react": (
        "omg yes | sounds good to me | no worries at all | ok cool, see you there "
        "| sorry only just saw this | ugh, not again pls | fine by me, {catchphrase} "
        "| haha classic {friend} | thanks so much for this | {catchphrase}"
    ),
    "todo": (
        "call {friend} re {topic_thing} | pay {money} to {friend} | {topic_thing} ({day}, {clock}) "
        "| vet for {pet} | {craft} supplies | pick up parcel from {spot} | reply to {friend} "
        "| ask abt {topic_thing} | cancel {spot} on {day} | milk, eggs, bin bags "
        "| birthday card for {friend} | charge the phone | book {spot}"
    ),
    "subject": (
        "{topic_thing} | re: {topic_thing} | fwd: {topic_thing} | {day} at {spot} "
        "| {friend} / {topic_thing} | quick question | catching up | plan for {day} "
        "| re: re: {spot}"
    ),
    "opener": (
        "hope you're well | just a quick one | following up on my last email "
        "| thanks for getting back to me | as discussed on the phone w/ {friend} "
        "| sorry for the slow reply | fyi on {topic_thing} | me again"
    ),
    "closer": (
        "let me know asap | lmk what you think | no rush | speak soon | shout if {day} doesn't work"
        " | see u {day} | give {pet} a hug from me | thanks again for {topic_thing} "
        "| more when i'm back from {spot}"
    ),
    "title": (
        "todo {day} | shopping + errands | {topic_thing} - notes | things to ask {friend} | {day} "
        "| before {spot}"
    ),
}

SECRETS = (
    "the wifi password is {word}",
    "my locker code is {word}",
    "the alarm word is {word}",
    "the spare key is under the {word}",
    "dont tell anyone, its called {word}",
    "my account name is still {word}",
    "the safe opens with {word}",
)

HABITS = {
    "name": (
        "Alex | Bea | Cam | Dee | Eli | Fran | Gus | Hana | Ivo | Jules | Kit | Lou | Mo | Nat | Oz"
        " | Pip | Remy | Sam | Tess | Uma | Vic | Wes | Yas | Zed"
    ),
    "greeting": "hi | hey | hiya | morning | hello | yo | dear | evening",
    "sign_off": "x | cheers | thx | best | ta | love | kind regards | laters | xx | many thanks",
    "catchphrase": (
        "tbh | to be fair | no drama | honestly | long story short | fingers crossed "
        "| at the end of the day | you know me | its all good | one thing at a time "
        "| knowing my luck | not being funny"
    ),
    "stop": ". | . | ! | !! | ... | ;) | :)",
    "bullet": "- | * | -> | [ ] | #",
}

RULES = grammar.compiled(WORDS)
