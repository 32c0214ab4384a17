"""Which synthetic pairs may be used."""
