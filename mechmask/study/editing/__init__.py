"""Editors side by side: what a study of them edits, reads and tabulates; the study is ``protocols.editing``."""
