"""The concentration mechanism: a noised test decides how much noise a round needs."""
