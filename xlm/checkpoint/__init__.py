"""Files to models and back: one reversible key table a source, safe reading, atomic writing, conversion."""
