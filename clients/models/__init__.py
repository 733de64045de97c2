"""Language models with stacked LoRA adapters: one adapter for each lane."""
