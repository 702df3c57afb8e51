"""The report page of every kind of study, made from its results alone: no model and no torch.

``exhibits`` lists, by protocol, what a study has to show; ``sentences`` says in words what each figure shows, from the
same numbers; ``study``, ``draws``, ``paper``, ``calibration`` and ``several`` put a page together. How a page looks is
``draw/page``'s.
"""
