"""Readers of fact files, one file a format. A reader returns entries and problems; it does not judge the facts."""
