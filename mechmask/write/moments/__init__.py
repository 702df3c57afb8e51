"""Second moments of keys: estimated in one pass over text (``estimate``), and what closed forms ask of them."""
