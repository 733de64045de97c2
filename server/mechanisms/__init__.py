"""Privacy mechanisms: how a round samples, clips, adds noise, and what it costs."""
