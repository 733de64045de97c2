"""userdp: federated fine-tuning of language models under user-level differential privacy.

The import name of the whole project: the folders ``sim``, ``clients``, ``server``, ``analysis`` and
``conf`` of the repository are installed as ``userdp.sim``, ``userdp.clients`` and so on.
"""
