"""The report page as one HTML file: ``content`` is what it holds, ``document`` writes it, ``draw.report`` saves it.

Whoever has something to show makes a ``Document``; nothing here knows studies or facts. The file asks for nothing:
style and filter stand in it, figures are inline SVG, and a policy in its head forbids whatever else text might bring.
"""
