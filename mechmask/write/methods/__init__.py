"""Editors, one file each; `mechmask.write.edit` is the registry."""
