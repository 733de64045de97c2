"""Frozen language models with stacked LoRA adapters, one adapter per lane."""
