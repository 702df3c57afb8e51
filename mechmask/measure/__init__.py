"""Numbers from labelled arrays: erase index, verdict, commit layer, statistics. No torch here."""
