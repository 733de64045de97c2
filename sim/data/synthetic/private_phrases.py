"""Grammar of the private users' texts: messages, notes and mails in the first person.

Names in braces that have no list in this file (topic_thing, friend, spot, pet, craft, catchphrase)
are lists of the single user; `userdp.sim.data.synthetic.users` adds them.
"""

from __future__ import annotations

from userdp.sim.data.synthetic import everyday_words, grammar

WORDS = {
    "day": everyday_words.DAY,
    "when": everyday_words.WHEN,
    "clock": everyday_words.CLOCK,
    "money": everyday_words.MONEY,
    "ask": (
        "can u bring {topic_thing} stuff on {day}? | pls can you check {topic_thing}? "
        "| any news on {topic_thing}? | are we still on for {when}? "
        "| did {friend} reply abt {topic_thing}? | who's got the keys for {spot}? "
        "| could you forward me the email abt {topic_thing}? | r u free {when} at {clock}? "
        "| whats the plan for {when}? | do you want me to pick up {friend} from {spot}? "
        "| can we move {topic_thing} to {when}? | how's {pet} doing today?"
    ),
    "tell": (
        "running late, be at {spot} by {clock} | just got back from {spot} with {friend} "
        "| {topic_thing} is sorted now | i'll sort out {topic_thing} on {day} "
        "| {friend} says {topic_thing} is on for {when} | gonna be at {spot} til {clock} "
        "| still waiting on {friend} re {topic_thing} | i owe you {money} for {topic_thing} "
        "| {pet} threw up on the sofa again | spent the whole morning on {topic_thing} "
        "| i've booked {spot} for {day} at {clock} | been {craft} all weekend "
        "| {friend} can't make it on {day} | my phone died at {spot} "
        "| we're out of milk and {pet}'s food | {topic_thing} is doing my head in "
        "| i left my {craft} kit at {spot} | the {craft} meetup moved to {spot} "
        "| need to pay {friend} {money} by {when} | cant believe {topic_thing} cost {money} "
        "| it's {friend}'s birthday on {day} | i'm wfh on {day} so {clock} works "
        "| {pet} is at the vet til {clock} | {catchphrase}, {topic_thing} can wait til {when}"
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
        "| {friend} / {topic_thing} | quick question | catching up | plan for {when} "
        "| re: re: {spot}"
    ),
    "opener": (
        "hope you're well | just a quick one | following up on my last email "
        "| thanks for getting back to me | as discussed on the phone w/ {friend} "
        "| sorry for the slow reply | fyi on {topic_thing} | me again"
    ),
    "closer": (
        "let me know asap | lmk what you think | no rush | speak soon | shout if {day} doesn't work"
        " | see u {when} | give {pet} a hug from me | thanks again for {topic_thing} "
        "| more when i'm back from {spot}"
    ),
    "title": (
        "todo {when} | shopping + errands | {topic_thing} - notes | things to ask {friend} | {day} "
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
