"""The module paths that user scripts of the vendor's tool import; nothing is implemented here."""
