"""The sides of `userdp bench` that are not ours.

They need torch, numpy, transformers, peft and a peer each, and import nothing else of userdp: they
run in an environment that has only these.
"""
