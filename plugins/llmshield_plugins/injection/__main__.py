"""`python -m llmshield_plugins.injection`: write signatures.json anew from the YAML files; after a change to them."""

from .signatures import refresh

if __name__ == "__main__":
    refresh()
