"""Sides of `userdp bench` other than ours: plain training, a user loop, and other frameworks.

Each needs torch, numpy, transformers, peft and its own framework. They import nothing else of
userdp, because they run in an environment where userdp is not installed.
"""
