"""Tokenization of plain texts, prompted texts, labelled texts and conversations."""
