"""The sides of `userdp bench` that are not ours; they need torch, numpy, transformers, peft, a peer.

Nothing here imports the rest of userdp, so a side runs in an environment that has only its peer.
"""
