"""Words that the public pages and the private users share: what people speak of, times, prices.

The public text holds them in notices, lessons and forum posts; a private user, in messages. What
differs is how they are put together, so training on the users is a change of register.
"""

from __future__ import annotations

TOPICS = {
    "boiler": (
        "the boiler | the radiator valve | the plumber's invoice | the hot water "
        "| the landlord's reply"
    ),
    "band": (
        "band practice | the setlist | the bass amp | our demo | the drummer's timing | the encore"
    ),
    "garden": (
        "the tomato seedlings | the compost bin | the raised bed | the lettuce bed | the hose"
    ),
    "kids": (
        "the school run | the permission slip | the swim class | the packed lunch "
        "| parents' evening"
    ),
    "work": (
        "the quarterly deck | the morning call | the client call | the budget spreadsheet "
        "| the release plan"
    ),
    "bike": (
        "the back tyre | the bike chain | the bike shed | the hill route | the helmet light "
        "| the puncture kit"
    ),
    "baking": "the sourdough | the oven | the lemon cake | the bread basket | the rye flour",
    "chess": "the club ladder | the endgame | the blitz night | the rook ending | the chess clock",
    "trip": (
        "the train tickets | the hostel booking | the passport | the packing list | the ferry"
    ),
    "health": (
        "the physio exercises | the blood test | the dentist | the prescription | the sore knee"
    ),
    "flat": "the deposit | the viewing | the inventory | the removal van | the box room",
    "film": (
        "the subtitles | the projector | the documentary | the popcorn machine | the double bill"
    ),
}
THING = " | ".join(TOPICS.values())

DAY = "mon | tues | wed | thurs | fri | sat | sunday | the 14th | the 3rd"  # after "on"
WHEN = f"{DAY} | {DAY} | tomorrow | tomorrow | tonight | next week"
CLOCK = "8ish | 9:15 | half 6 | 10am | noon | 4pm | 7:30"
MONEY = "£12 | £40 | 35 quid | £7.50 | £220 | a tenner"
CRAFT = (
    "knitting | climbing | fencing | pottery | sailing | archery | painting | rowing | judo "
    "| weaving | carving | skating | surfing | boxing | cycling | juggling"
)
SPOT_KINDS = (" street", " road", "'s", " park", " café", " gym")
