import sys

# jsonschema, which nbformat imports, would build a grammar of addresses for a second. It does
# without where there is none, and no notebook holds an address to check.
sys.modules.setdefault("rfc3987_syntax", None)
